"""What may be wrong with an installation: looked at without changing anything.

Nothing is created, migrated or taken in here, so that a look never alters what it looks at.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from receipt_dynamo._version import __version__
from receipt_dynamo.destinations import place_of, waiting_elsewhere, way_to
from receipt_dynamo.environment import NAMING_VARIABLES
from receipt_dynamo.errors import UsageError
from receipt_dynamo.file_systems import (
    file_system_of,
    holds_no_files,
    nearest_existing,
    risk_of,
    why_not_made,
)
from receipt_dynamo.files import check_private_file, secure_directory
from receipt_dynamo.settings import DEPRECATED_TABLE_VARIABLE, Settings
from receipt_dynamo.spool.pending import pending_records
from receipt_dynamo.sqlite_aside import corrupt_stores
from receipt_dynamo.stores import check_destination

__all__ = ["Finding", "inspect_environment"]

Mark = Literal["ok", "warn", "fault"]
_LITTLE_SPACE = 64 << 20  # bytes
_FIXED_SQLITE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
"""These mend the WAL-reset bug of 3.7.0 to 3.51.2: two branches, and all from the last on."""

_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "usage_dir": ("RECEIPT_USAGE_DIR", "XDG_STATE_HOME"),
    "table_name": ("DYNAMODB_TABLE_NAME", DEPRECATED_TABLE_VARIABLE),
    "environment": NAMING_VARIABLES,
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint_url": ("AWS_ENDPOINT_URL_DYNAMODB",),
    "deployment_version": ("DEPLOYMENT_VERSION",),
}
_NOT_LISTED = frozenset({"environment_variable", "other_spool"})
_OF_THE_TRACKER = ("RECEIPT_USAGE_CONTEXT", "RECEIPT_USAGE_COMMAND")
_ALIKE = 0.84  # how much of a name is there that was mistyped


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check: ``fault`` stops the recording or the reports, ``warn`` may lose data."""

    mark: Mark
    what: str
    detail: str


def inspect_environment(
    settings: Settings, environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return what is found of versions, directory, settings, store and spools. Raises nothing."""
    variables = os.environ if environ is None else environ
    return [
        *_versions(),
        *_directory(settings.usage_dir),
        *_settings(settings, variables),
        *_destination(settings),
        *_spools(settings),
    ]


def _versions() -> Iterator[Finding]:
    import sqlite3
    from importlib.metadata import PackageNotFoundError, version

    yield Finding("ok", "receipt-usage", __version__)
    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.system()}")
    known = sqlite3.sqlite_version_info
    mended = known >= _FIXED_SQLITE[-1] or any(
        known[:2] == fixed[:2] and known >= fixed for fixed in _FIXED_SQLITE
    )
    remark = "" if mended else " (has the WAL-reset bug; the store's lock guards against it)"
    yield Finding("ok", "SQLite", f"{sqlite3.sqlite_version}{remark}")
    try:
        yield Finding("ok", "botocore", version("botocore"))
    except PackageNotFoundError:
        yield Finding("ok", "botocore", "not installed; the embedded store does not need it")


def _directory(directory: Path) -> Iterator[Finding]:
    try:
        existing = nearest_existing(directory)
        finding = _missing(directory, existing) if existing != directory else _present(directory)
    except OSError as error:
        yield Finding("fault", "directory", f"{directory} cannot be looked at: {error.strerror}")
        return
    yield finding
    if finding.mark != "fault":
        yield _file_system(existing)


def _missing(directory: Path, parent: Path) -> Finding:
    """Say whether a directory that is not there yet can be made in ``parent``, and safely."""
    fault = why_not_made(directory)
    if fault is not None:
        return Finding("fault", "directory", fault)
    status = parent.stat()
    others = stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    foreign = status.st_uid not in (0, os.geteuid())
    if foreign or (others and not status.st_mode & stat.S_ISVTX):
        return Finding(
            "warn",
            "directory",
            f"{directory} will be created in {parent}, where others can replace it",
        )
    return Finding("ok", "directory", f"{directory} is not there yet; it will be created")


def _present(directory: Path) -> Finding:
    try:
        secure_directory(directory)
    except UsageError as error:
        return Finding("fault", "directory", str(error))
    if holds_no_files(file_system_of(directory.resolve())):
        return Finding("fault", "directory", f"{directory} holds no files. Set RECEIPT_USAGE_DIR")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return Finding("fault", "directory", f"{directory} cannot be written. Run: chmod u+rwx")
    return Finding("ok", "directory", f"{directory}, yours alone")


def _file_system(directory: Path) -> Finding:
    kind = file_system_of(directory.resolve())
    try:
        status = os.statvfs(directory)
    except OSError as error:
        return Finding("fault", "file system", f"cannot be asked: {error.strerror}")
    free = status.f_bavail * status.f_frsize
    detail = f"{kind or 'of unknown type'}, {free / (1 << 30):,.1f} GiB free"
    risk = risk_of(kind)
    if risk is not None:
        return Finding("warn", "file system", f"{detail}; {risk}")
    if free < _LITTLE_SPACE:
        return Finding("warn", "file system", f"{detail}; little space is left")
    return Finding("ok", "file system", detail)


def _settings(settings: Settings, variables: Mapping[str, str]) -> Iterator[Finding]:
    known = list(_OF_THE_TRACKER)
    for field in fields(settings):
        if field.name in _NOT_LISTED:
            continue
        names = _VARIABLES.get(field.name, (f"RECEIPT_USAGE_{field.name.upper()}",))
        known += names
        source = next((name for name in names if variables.get(name, "").strip()), "default")
        if field.name == "environment":
            source = settings.environment_variable or "default"
        value = getattr(settings, field.name)
        shown = "not set" if value is None else str(value)
        yield Finding("ok", f"setting {field.name}", f"{shown} ({source})")
    ours: tuple[str, ...] = ("RECEIPT_USAGE_",)
    if settings.table_name is None:
        ours += ("DYNAMODB_TABLE", "DYNAMO_TABLE")
    for name in sorted(variables):
        if name.startswith(ours) and name not in known:
            yield _unknown_variable(name, known)


def _unknown_variable(name: str, known: list[str]) -> Finding:
    """Say that a variable is no setting: else a slip of the pen would leave a default in force
    without a word."""
    meant = get_close_matches(name, known, n=1, cutoff=_ALIKE)
    hint = f"; did you mean {meant[0]}?" if meant else "; docs/recording.md has them all"
    return Finding("warn", f"variable {name}", f"is no setting, and has no effect{hint}")


def _destination(settings: Settings) -> Iterator[Finding]:
    try:
        check_destination(settings)
    except UsageError as error:
        yield Finding("fault", "destination", str(error))
        return
    if settings.table_name is None:
        yield _store(settings.store_path)
    else:
        yield from _table(settings, settings.table_name)
    for path in corrupt_stores(settings.usage_dir):
        yield Finding(
            "warn",
            "store set aside",
            f"{path} was damaged; what could be read of it is in the store, and the rest is shown "
            f"by every report as store_corrupt. When you have looked, run: rm {path}*",
        )


def _table(settings: Settings, name: str) -> Iterator[Finding]:
    from receipt_dynamo.dynamo_client import DynamoClient

    table = DynamoClient(name, region=settings.region, endpoint_url=settings.endpoint_url, tries=1)
    try:
        with table:
            found = table.describe_table()
    except UsageError as error:
        yield Finding("fault", "table", str(error))
        return
    yield Finding(
        "ok" if found.status == "ACTIVE" else "fault",
        "table",
        f"{found.arn or name}: {found.status}, {found.billing}, about {found.items:,} items",
    )
    for difference in found.differences:
        yield Finding("fault", "table", difference)


def _store(path: Path) -> Finding:
    import sqlite3
    from contextlib import closing

    from receipt_dynamo.sqlite_connect import Reading
    from receipt_dynamo.sqlite_damage import damage_in
    from receipt_dynamo.sqlite_schema import MIGRATIONS

    wanted = len(MIGRATIONS)
    try:
        if not check_private_file(path):
            return Finding("ok", "store", f"{path} is not there yet; the first report creates it")
        # Without a log beside it the file is read as it is: SQLite would create its side files.
        reading = Reading(path, undisturbed=True)
        with closing(sqlite3.connect(reading.uri, uri=True, timeout=5.0)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > wanted:
                return Finding(
                    "fault",
                    "store",
                    f"{path} is of version {version}, this program knows {wanted}: upgrade it",
                )
            tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'metric'")
            known = tables.fetchone() is not None
            count = connection.execute("SELECT count(*) FROM metric").fetchone()[0] if known else 0
    except (UsageError, sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error) and damage_in(error) is not None:
            remedy = "the next report or delivery sets it aside and salvages what can be read"
            return Finding("warn", "store", f"{path} is damaged ({error}); {remedy}")
        return Finding("fault", "store", f"{path} cannot be read: {error}")
    size = path.stat().st_size / (1 << 20)
    older = "" if version == wanted else f", to become version {wanted} when next written"
    return Finding(
        "ok", "store", f"{path}: {count:,} records, {size:,.1f} MiB, version {version}{older}"
    )


def _spools(settings: Settings) -> Iterator[Finding]:
    own = settings.spool_dir
    try:
        waiting = pending_records(own)
    except OSError as error:
        yield Finding("fault", f"spool {settings.destination}", f"cannot be read: {error}")
        return
    next_step = "the next report takes them in"
    if settings.table_name is not None:
        next_step = "a pipeline of this destination or receipt-usage ship delivers them"
    detail = f"records waiting: {waiting:,}; {next_step}" if waiting else "empty"
    yield Finding("ok", f"spool {settings.destination}", detail)
    for name, what in (
        ("dead", "records that can never be stored; see: receipt-usage dead list"),
        ("quarantine", "damaged lines"),
    ):
        try:
            files = sum(path.is_file() for path in (own / name).iterdir())
        except OSError:
            continue
        if files:
            yield Finding("warn", f"spool {settings.destination}", f"{own / name} holds {what}")
    for destination, count in waiting_elsewhere(settings).items():
        yield Finding(
            "warn",
            f"spool {destination}",
            f"records waiting for {place_of(destination)}: {count:,}. "
            f"To deliver: {way_to(destination)}",
        )
