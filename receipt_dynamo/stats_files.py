"""The files of ``stats/``: one page for each process, and ``total.json``. See ``stats``."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from receipt_dynamo.figures import Figures
from receipt_dynamo.files import READ_FLAGS, create_private_file, sync_directory
from receipt_dynamo.spool.segment import CRC_BYTES, encode_line, split_lines

__all__ = [
    "TOTAL",
    "Total",
    "changed_at",
    "decode_total",
    "is_free",
    "opened",
    "process_files",
    "read_file",
    "read_page",
    "write_page",
    "write_total",
]

PAGE_BYTES = 4096
"""One page: the kernel replaces it as a whole, and it holds its place on a full disk."""

TOTAL = "total.json"
_TEXT_CHARACTERS = 200
_REASON_CHARACTERS = 40
_OTHER = "other"
_NAME = re.compile(r"[0-9]+-[0-9a-f]{8}\.json")


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``total.json``: ``merged`` are the files that ``figures`` has taken in."""

    figures: Figures = Figures()
    merged: list[str] = []


def write_total(directory: Path, total: Total) -> None:
    """Replace ``total.json`` in one step; it is on the disk itself before the files that it names
    go. Raises OSError, and leaves the old one."""
    new = directory / f"{TOTAL}.new"
    descriptor = create_private_file(new, os.O_WRONLY | os.O_TRUNC)
    try:
        text = msgspec.json.encode(total) + b"\n"
        if os.write(descriptor, text) != len(text):
            raise OSError(errno.ENOSPC, "no room for the figures", str(new))
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(directory / TOTAL)
    sync_directory(directory)


def write_page(descriptor: int, figures: Figures) -> None:
    """Rewrite a file in place, in one write of a fixed size. Raises OSError."""
    page = encode_line(_fitting(figures).ljust(PAGE_BYTES - CRC_BYTES - 1))
    if os.pwrite(descriptor, page, 0) != len(page):
        raise OSError(errno.ENOSPC, "no room for the figures of this process")


def _fitting(figures: Figures) -> bytes:
    """Encode within a page: texts are cut, and the rarest of too many reasons become ``other``."""
    ranked = sorted(figures.dropped.items(), key=lambda item: -item[1])
    text = b""
    for kept in (30, 10, 0):
        dropped: dict[str, int] = {}
        for rank, (reason, count) in enumerate(ranked):
            name = reason[:_REASON_CHARACTERS] if rank < kept else _OTHER
            dropped[name] = dropped.get(name, 0) + count
        text = msgspec.json.encode(
            msgspec.structs.replace(
                figures,
                dropped=dropped,
                last_error=figures.last_error and figures.last_error[:_TEXT_CHARACTERS],
                refused=figures.refused and figures.refused[:_TEXT_CHARACTERS],
            )
        )
        if len(text) <= PAGE_BYTES - CRC_BYTES - 1:
            break
    return text


def read_page(descriptor: int) -> Figures | None:
    """Return the figures of a file, or None where it is damaged, or being written just now."""
    for _ in range(3):
        for payload in split_lines(os.pread(descriptor, PAGE_BYTES, 0), 0, 1).payloads:
            with suppress(msgspec.MsgspecError, RecursionError):
                return msgspec.json.decode(payload, type=Figures)
    return None


def is_free(descriptor: int, mode: int) -> bool:
    """Take the lock if it is free: its process has ended. Return whether it is."""
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def changed_at(descriptor: int) -> datetime:
    """Return when a file was last written."""
    return datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC)


def process_files(directory: Path) -> list[str]:
    """Return the names of the processes' files; none where the directory cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    except OSError:
        return []


def read_file(path: Path) -> bytes | None:
    """Return the content of a file of ours, or None where there is none. Raises OSError."""
    with suppress(FileNotFoundError), opened(path) as descriptor:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return None


def decode_total(text: bytes | None) -> Total | None:
    """Return the content of ``total.json``, or None where there is none or it is damaged."""
    with suppress(msgspec.MsgspecError, RecursionError):
        return msgspec.json.decode(text or b"", type=Total)
    return None


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file of ours; free whatever lock was taken on it, and close it."""
    descriptor = os.open(path, READ_FLAGS | flags)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # by name: a child forked meanwhile may hold a copy of the lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
