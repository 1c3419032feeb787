"""Invariant 14: what is recorded is ours alone, and nobody makes us write or run what is not."""

from __future__ import annotations

import ast
import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import receipt_dynamo
import receipt_label
from receipt_dynamo import (
    DeadLetters,
    DirectoryRefusedError,
    Settings,
    UsageClient,
    UsageError,
    inspect_environment,
    open_usage_client,
)
from receipt_dynamo.files import create_private_file, secure_directory
from receipt_dynamo.spool.segment import encode_line
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import encode, in_fork, make_metric
from tests.support.stores import POISON, forbid_poison


def settings_of(directory: Path) -> Settings:
    return Settings(usage_dir=directory, drain="manual", segment_bytes=4096)


def live(directory: Path) -> Iterator[str]:
    """Do everything that this package does with files; yield after each step what it was."""
    settings = settings_of(directory)
    secure_directory(directory)
    os.close(create_private_file(settings.store_path, os.O_RDWR))
    with closing(sqlite3.connect(settings.store_path)) as old:
        old.execute("CREATE TABLE of_version_0 (a)")
    client = open_usage_client(settings)
    client.put_ai_usage_metrics(make_metric(metadata={"text": "x" * 900}) for _ in range(9))
    client._pipeline.tick()
    yield "a store of an older version migrated, its copy beside it, and records delivered"
    with client._store.exclusive(5):
        store = client._store
        assert isinstance(store, SqliteStore)
        store._connection().execute("CREATE TABLE more (a)")
        yield "SQLite's log and shared memory, in the middle of a write"
    forbid_poison(settings.store_path)
    spoil(client)
    client._pipeline.tick()
    yield "damaged lines, dead letters"
    letters = DeadLetters(settings)
    first, *others = letters.letters()
    letters.drop([first.id])
    letters.retry([letter.id for letter in others if letter.fault is None])
    client.summarize(by=["day"])
    yield "letters dropped and retried"
    inspect_environment(settings)
    client.health()
    client.close()
    yield "everything closed"
    overwrite(settings.store_path, 4096, b"\xff" * 4096)
    with open_usage_client(settings) as client:
        client.put_ai_usage_metric(make_metric())
        with suppress(UsageError):
            client.summarize()
    yield "a store that is damaged"


def spoil(client: UsageClient) -> None:
    """Record metrics that the store refuses, one that is none, and damage."""
    client.put_ai_usage_metric(make_metric(model=POISON))
    segment = client._pipeline.spool.writer.active_segment
    assert segment is not None
    more = (
        encode_line(b"{}") + b"00000000 rotten\n" + encode_line(encode(make_metric(model=POISON)))
    )
    overwrite(segment, segment.stat().st_size, more)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    os.pwrite(descriptor, data, offset)
    os.close(descriptor)


EXPECTED = (
    "spool local stats drain.lock leader aside.lock dead quarantine store.lock usage.db "
    "usage.db-wal usage.db-shm usage.db.v0"
).split()


@pytest.mark.parametrize("umask", [0, 0o777], ids=["careless", "strict"])
def test_every_file_is_ours_alone_and_no_link_is_ever_followed(tmp_path: Path, umask: int) -> None:
    """Directories 0700, files 0600 whatever the umask, at any moment; O_NOFOLLOW at each open."""
    directory = tmp_path / "usage"
    follows: list[str] = []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        ours = event == "open" and str(args[0]).startswith(str(directory))
        if ours and not args[2] & os.O_NOFOLLOW:
            follows.append(str(args[0]))

    def child() -> None:
        os.umask(umask)
        sys.addaudithook(watch)  # it can never be removed again: hence the child
        seen: set[str] = set()
        for step in live(directory):
            for path in [directory, *directory.rglob("*")]:
                seen.add(path.name)
                wanted = 0o700 if path.is_dir() else 0o600
                assert stat.S_IMODE(path.lstat().st_mode) == wanted, (step, path)
        assert seen.issuperset(EXPECTED), seen
        for suffix in (".seg", ".jsonl", ".bad"):
            assert [name for name in seen if name.endswith(suffix)], suffix
        assert not follows, follows

    assert in_fork(child, timeout=60) == 0


PLANTED = (
    "store.lock",
    "usage.db",
    "usage.db-wal",
    "usage.db-shm",
    "spool",
    "spool/local",
    "spool/local/drain.lock",
    "spool/local/leader",
    "spool/local/aside.lock",
    "spool/local/dead",
    "spool/local/quarantine",
    "spool/local/dead/SEGMENT.jsonl",
    "spool/local/quarantine/SEGMENT.bad",
    "spool/local/0000000000000000001-1-aa.seg",
)


@pytest.mark.parametrize("kind", ["file", "directory", "nothing"])
@pytest.mark.parametrize("name", PLANTED)
def test_a_link_planted_in_the_place_of_a_file_leads_nowhere(
    tmp_path: Path, name: str, kind: str
) -> None:
    """What it points to is not written, not made and not removed."""
    target = tmp_path / "target"
    if kind == "file":
        target.write_bytes(b"precious")
    elif kind == "directory":
        target.mkdir(mode=0o700)
    changed = 0 if kind == "nothing" else target.lstat().st_mtime_ns
    directory = tmp_path / "usage"
    link = directory / name
    if "SEGMENT" not in name:
        secure_directory(link.parent)
        link.symlink_to(target)
    with suppress(UsageError), open_usage_client(settings_of(directory)) as client:
        client.put_ai_usage_metric(make_metric())
        if "SEGMENT" in name:
            segment = client._pipeline.spool.writer.active_segment
            assert segment is not None
            link = directory / name.replace("SEGMENT", segment.name)
            secure_directory(link.parent)
            link.symlink_to(target)
        spoil(client)
        for _ in range(2):
            client._pipeline.tick()
        inspect_environment(client.settings)
        for act in (DeadLetters(client.settings).retry, DeadLetters(client.settings).drop):
            with suppress(UsageError):
                act()
        with suppress(UsageError):
            client.summarize()
    assert link.is_symlink() or "wal" in name  # SQLite removes a log without a database
    if kind == "nothing":
        assert not os.path.lexists(target)
        return
    assert target.lstat().st_mtime_ns == changed
    if kind == "file":
        assert target.read_bytes() == b"precious"
    else:
        assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["usage", "usage/spool", "usage/spool/local"])
@pytest.mark.parametrize("fault", ["writable", "foreign"])
def test_a_directory_that_others_own_or_can_write_is_refused_with_the_remedy(
    tmp_path: Path, name: str, fault: str
) -> None:
    """Nothing is recorded where others could forge or remove it; the message says what to do."""
    path = secure_directory(tmp_path / name)
    if fault == "writable":
        path.chmod(0o777)
        remedy = f"can be written by others .mode 0777.. Run: chmod go-w {path}"
    elif os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        remedy = (
            "belongs to user id 12345, not to yours .0.. Run as its owner, or set RECEIPT_USAGE"
        )
    else:
        pytest.skip("only root can give directories away")
    with pytest.raises(DirectoryRefusedError, match=remedy):
        open_usage_client(settings_of(tmp_path / "usage"))


MODULES = {
    path
    for package in (receipt_dynamo, receipt_label)
    for path in Path(package.__file__).parent.rglob("*.py")
}
CAN_RUN_DATA = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("multiprocessing", "eval", "exec", "compile", "__import__"),
}


def ways_to_run_data(source: str) -> list[str]:
    """Return what in ``source`` could make code of bytes that were read somewhere."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = [node.func.id]
        found += [name for name in names if name.split(".")[0] in CAN_RUN_DATA]
    return found


def test_nothing_that_is_read_is_ever_run() -> None:
    """No pickle and none of its kin in either package: a spool holds JSON, the store SQLite."""
    assert len(MODULES) > 50
    assert {
        path.name: found for path in MODULES if (found := ways_to_run_data(path.read_text()))
    } == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from multiprocessing.connection import Client",
        "from concurrent import shelve",
        "def f(x):\n    return eval(x)",
    ],
)
def test_the_rule_finds_what_it_forbids(source: str) -> None:
    """A rule that finds nothing proves nothing."""
    assert ways_to_run_data(source)
