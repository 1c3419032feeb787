"""Which file system a directory lies on, and whether records are safe there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from receipt_dynamo.logs import safe_logger

__all__ = [
    "file_system_of",
    "holds_no_files",
    "nearest_existing",
    "risk_of",
    "warn_of_risk",
    "why_not_made",
]

_NETWORK = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs 9p afs ceph glusterfs lustre beegfs gpfs fuse.sshfs "
    "fuse.s3fs fuse.gcsfuse fuse.rclone fuse.glusterfs fuse.mountpoint-s3 fuse.juicefs".split()
)
_MEMORY = frozenset({"tmpfs", "ramfs"})
_NO_FILES = frozenset(
    "proc sysfs cgroup cgroup2 devpts securityfs debugfs tracefs bpf pstore mqueue efivarfs "
    "configfs fusectl binfmt_misc autofs selinuxfs".split()
)
_MOUNTS = Path("/proc/self/mountinfo")
_MOUNT_POINT = 4  # proc(5): the fifth field
_ESCAPED = re.compile(r"\\([0-7]{3})")
_log = safe_logger("receipt_dynamo.client")
_warned: set[Path] = set()


def file_system_of(directory: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the file system that holds ``directory``, an absolute path without links.

    None where it is unknown. Raises nothing.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    inside = f"{directory}/"
    found, kind = "", None
    for line in lines:
        place, _, source = line.partition(" - ")
        mounted, types = place.split(" "), source.split(" ")
        if len(mounted) <= _MOUNT_POINT or not source:
            continue
        point = _ESCAPED.sub(lambda digits: chr(int(digits[1], 8)), mounted[_MOUNT_POINT])
        point = point.rstrip("/") + "/"
        if inside.startswith(point) and len(point) >= len(found):  # a later mount covers an earlier
            found, kind = point, types[0]
    return kind


def holds_no_files(kind: str | None) -> bool:
    """Whether ``kind`` is one of the kernel's own file systems: root may seem to be allowed to
    write there, and cannot."""
    return kind in _NO_FILES


def nearest_existing(directory: Path) -> Path:
    """Return ``directory``, or the nearest path above it that is there."""
    existing = directory
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    return existing


def why_not_made(directory: Path) -> str | None:
    """Return why a directory that is not there cannot be created, or None. Raises OSError."""
    parent = nearest_existing(directory)
    if not parent.is_dir():
        why = f"{parent} is no directory"
    elif holds_no_files(file_system_of(parent.resolve())) or not os.access(
        parent, os.W_OK | os.X_OK
    ):
        why = f"{parent} is not writable"
    else:
        return None
    return f"{directory} cannot be created: {why}. Set RECEIPT_USAGE_DIR to a directory of yours"


def risk_of(kind: str | None) -> str | None:
    """Return what may happen to records on a file system of this kind, or None."""
    if kind in _NETWORK:
        return "locks and SQLite need a local disk"
    if kind in _MEMORY:
        return "in memory, gone after a reboot"
    return None


def warn_of_risk(directory: Path) -> None:
    """Log once per process where records in ``directory`` are not safe. Raises nothing."""
    if directory in _warned:
        return
    _warned.add(directory)
    kind = file_system_of(Path(os.path.realpath(directory)))
    risk = risk_of(kind)
    if risk is not None:
        _log.warning(
            "usage is recorded in %s, on %s: %s. Set RECEIPT_USAGE_DIR to a directory on a local "
            "disk that outlives a reboot.",
            directory,
            kind,
            risk,
        )
