"""Small file systems of a test's own, to fill up and to make read-only. For root alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["fill_up", "free_up", "make_read_only", "small_disk"]

_BALLAST = "ballast"


def _run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")


@contextmanager
def small_disk(directory: Path, kind: str, mib: int) -> Iterator[Path]:
    """Mount a file system of ``mib`` MiB within ``directory``: ``tmpfs``, or ``ext4`` with blocks
    of 1 KiB. Skips the test where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place = directory / "disk"
    place.mkdir()
    try:
        if kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "tmpfs", place)
        else:
            image = directory / "image"
            with image.open("wb") as file:
                file.truncate(mib << 20)
            mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
            if mkfs is None:
                pytest.skip("mkfs.ext4 is not installed")
            _run(mkfs, "-q", "-F", "-b", "1024", image)
            _run("mount", "-o", "loop", image, place)
    except OSError as error:
        pytest.skip(f"a file system cannot be mounted here: {error}")
    try:
        place.chmod(0o700)
        yield place
    finally:
        with suppress(OSError):
            _run("umount", "-l", place)


def fill_up(disk: Path) -> None:
    """Write until not a byte more has room."""
    descriptor = os.open(disk / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while os.write(descriptor, bytes(size)):
                    pass
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_up(disk: Path) -> None:
    """Make room again."""
    (disk / _BALLAST).unlink()


def make_read_only(disk: Path) -> None:
    """Let nothing be written any more."""
    _run("mount", "-o", "remount,ro", disk)
