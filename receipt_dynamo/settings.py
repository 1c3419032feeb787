"""Everything that comes from the environment, read once into a frozen dataclass."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from receipt_dynamo.aws_profile import region_of_profile
from receipt_dynamo.environment import Environment, environment_source
from receipt_dynamo.errors import ConfigurationError

__all__ = ["DEPRECATED_TABLE_VARIABLE", "Settings"]

DEPRECATED_TABLE_VARIABLE = "DYNAMO_TABLE_NAME"
_PREFIX = "RECEIPT_USAGE_"
_MIN_SEGMENT_BYTES = 4096
_MAX_SENDERS = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.@-]")
_WORDS = {
    "drain": ("thread", "external", "manual"),
    "overflow": ("drop_newest", "drop_oldest"),
    "durability": ("process", "fsync"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The client's settings. Seconds and bytes; an explicit value beats the environment.

    ``table_name`` None means the embedded store. ``drain`` is ``thread`` (this process delivers in
    the background), ``external`` (another process delivers; this one syncs) or ``manual`` (no
    thread at all: flushes and reports deliver). ``max_bytes`` bounds the spool,
    ``min_free_bytes`` stay free on its disk (None: the larger of 256 MiB and 2 %); where they are
    reached, ``overflow`` says what is lost first. With ``durability="fsync"`` a put returns when
    its record is on the disk itself. ``exit_flush_seconds`` bounds what the
    exit hook may take; 0 skips it. ``prices`` is the user's price file. From how many waiting
    records, and from which age of the oldest, health is a warning or critical, say
    ``health_warning_pending``, ``health_critical_pending``, ``health_warning_age_seconds`` and
    ``health_critical_age_seconds``. ``senders`` batches at most are on their way to a table at a
    time; after ``retention_days`` DynamoDB deletes a metric (None: never). ``other_spool`` is
    another destination, whose spool is delivered to the place that these settings name.
    """

    usage_dir: Path
    table_name: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    environment: Environment = Environment.DEVELOPMENT
    environment_variable: str = ""
    deployment_version: str | None = None
    prices: Path | None = None
    drain: str = "thread"
    segment_bytes: int = 4 << 20
    max_bytes: int = 1 << 30
    min_free_bytes: int | None = None
    overflow: str = "drop_newest"
    durability: str = "process"
    exit_flush_seconds: float = 2.0
    health_warning_pending: int = 100
    health_critical_pending: int = 1000
    health_warning_age_seconds: float = 60.0
    health_critical_age_seconds: float = 600.0
    senders: int = 4
    retention_days: float | None = None
    other_spool: str | None = None

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            _check_word(name, getattr(self, name), words)
        for name in ("max_bytes", "min_free_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigurationError(f"{_PREFIX}{name.upper()}={value} is negative")
        if self.segment_bytes < _MIN_SEGMENT_BYTES:
            raise ConfigurationError(
                f"{_PREFIX}SEGMENT_BYTES={self.segment_bytes} is too small: "
                f"at least {_MIN_SEGMENT_BYTES}"
            )
        if not 0 <= self.exit_flush_seconds < float("inf"):
            raise ConfigurationError(
                f"{_PREFIX}EXIT_FLUSH_SECONDS={self.exit_flush_seconds} is no duration: 0 or more"
            )
        if not 1 <= self.senders <= _MAX_SENDERS:
            raise ConfigurationError(
                f"{_PREFIX}SENDERS={self.senders} is out of range: 1 to {_MAX_SENDERS}"
            )
        if self.retention_days is not None and not 0 < self.retention_days < float("inf"):
            raise ConfigurationError(
                f"{_PREFIX}RETENTION_DAYS={self.retention_days} is no duration: above 0"
            )
        other = self.other_spool
        if other is not None and (other in ("", ".", "..") or _UNSAFE.search(other)):
            raise ConfigurationError(f"other_spool={other!r} is no destination's name")
        for name in ("pending", "age_seconds"):
            warning = getattr(self, f"health_warning_{name}")
            critical = getattr(self, f"health_critical_{name}")
            if not 0 < warning <= critical:  # false for NaN as well
                label = f"{_PREFIX}HEALTH_WARNING_{name.upper()}"
                raise ConfigurationError(
                    f"{label}={warning} is no threshold: above 0, and at most "
                    f"{_PREFIX}HEALTH_CRITICAL_{name.upper()}={critical}"
                )

    @property
    def destination(self) -> str:
        """The name of the spool's directory: one spool for each place that records go to.

        Whatever the environment says, it is one name within ``spool/``, and none of a line break.
        """
        if self.other_spool is not None:
            return self.other_spool
        if self.table_name is None:
            return "local"
        place = self.region or "us-east-1"
        if self.endpoint_url is not None:
            place = self.endpoint_url.split("://", 1)[-1].rstrip("/")
        return _UNSAFE.sub("_", f"{self.table_name}@{place}")

    @property
    def store_path(self) -> Path:
        """Where the embedded store lies."""
        return self.usage_dir / "usage.db"

    @property
    def spool_dir(self) -> Path:
        """Where the records of this destination wait for delivery."""
        return self.usage_dir / "spool" / self.destination

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **explicit: Any) -> Settings:
        """Return the settings of ``environ`` (default: this process's), overridden by ``explicit``.

        Raises ConfigurationError that names the variable, its value and the remedy.
        """
        variables = os.environ if environ is None else environ
        environment, variable = environment_source(variables)
        found: dict[str, Any] = {
            "usage_dir": _usage_dir(variables),
            "table_name": _table_name(variables),
            "region": variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION"),
            "endpoint_url": variables.get("AWS_ENDPOINT_URL_DYNAMODB"),
            "environment": environment,
            "environment_variable": variable,
            "deployment_version": variables.get("DEPLOYMENT_VERSION"),
        }
        for name, convert in (
            ("prices", Path),
            ("drain", str),
            ("segment_bytes", int),
            ("max_bytes", int),
            ("min_free_bytes", int),
            ("overflow", str),
            ("durability", str),
            ("exit_flush_seconds", float),
            ("health_warning_pending", int),
            ("health_critical_pending", int),
            ("health_warning_age_seconds", float),
            ("health_critical_age_seconds", float),
            ("senders", int),
            ("retention_days", float),
        ):
            text = variables.get(_PREFIX + name.upper())
            if text:
                found[name] = _convert(_PREFIX + name.upper(), text, convert)
        found = {name: value for name, value in found.items() if value not in (None, "")}
        for name, words in _WORDS.items():  # also of what an explicit value replaces
            if name in found:
                _check_word(name, found[name], words)
        unknown = set(explicit) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigurationError(f"unknown setting {sorted(unknown)[0]!r}")
        found.update((name, value) for name, value in explicit.items() if value is not None)
        if "table_name" in found and "region" not in found:
            found["region"] = region_of_profile(variables)
        return cls(**found)


def _convert(name: str, text: str, convert: Any) -> Any:
    try:
        return convert(text)
    except ValueError:
        kind = "whole number" if convert is int else "number"
        raise ConfigurationError(
            f"{name}={text!r} is no {kind}. Write it in digits, without a unit, or unset it."
        ) from None


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        choices = " or ".join(map(repr, words))
        raise ConfigurationError(f"{_PREFIX}{name.upper()}={value!r} is unknown: {choices}")


def _table_name(variables: Mapping[str, str]) -> str | None:
    """Return the table that is named; a blank name is none."""
    name = variables.get("DYNAMODB_TABLE_NAME", "")
    if name.strip():
        return name
    deprecated = variables.get(DEPRECATED_TABLE_VARIABLE, "")
    if deprecated.strip():
        warnings.warn(
            "DYNAMO_TABLE_NAME is deprecated. Use DYNAMODB_TABLE_NAME instead.",
            DeprecationWarning,
            stacklevel=4,
        )
        return deprecated
    return None


def _usage_dir(variables: Mapping[str, str]) -> Path:
    """Return the directory for spool and store; a symbolic link to it is followed once, here."""
    chosen = variables.get("RECEIPT_USAGE_DIR")
    if chosen:
        try:
            return Path(os.path.realpath(Path(chosen).expanduser()))
        except (RuntimeError, ValueError):  # no such user, a NUL
            raise ConfigurationError(
                f"RECEIPT_USAGE_DIR={chosen!r} is no directory that can be found. Name it in full."
            ) from None
    state = variables.get("XDG_STATE_HOME")
    if state and Path(state).is_absolute():
        return Path(os.path.realpath(state)) / "receipt-usage"
    home = Path(variables.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - raises nothing
    if home.is_absolute() and _can_write(home):
        return Path(os.path.realpath(home)) / ".local" / "state" / "receipt-usage"
    import tempfile  # rarely needed, and not cheap to import

    return Path(os.path.realpath(tempfile.gettempdir())) / f"receipt-usage-{os.geteuid()}"


def _can_write(home: Path) -> bool:
    """Return whether ``~/.local/state/receipt-usage`` can be made or written (not so in Lambda)."""
    path = home / ".local" / "state" / "receipt-usage"
    while not path.exists() and path != home:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
