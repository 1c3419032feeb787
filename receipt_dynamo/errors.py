"""The errors of this package. Each message names the thing, the value and the remedy."""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "CorruptReplyError",
    "DeadLetterError",
    "DirectoryRefusedError",
    "StoreBusyError",
    "StoreError",
    "StoreVersionError",
    "UsageError",
]


class UsageError(Exception):
    """Base of every error that this library raises on its own account."""


class ConfigurationError(UsageError, ValueError):
    """A setting is missing or wrong. The message names the variable and what to set."""


class DirectoryRefusedError(ConfigurationError):
    """A directory or file is not safe to write to: another owner, or writable by others."""


class DeadLetterError(UsageError):
    """A dead letter cannot be found, retried or removed. The message says what was changed."""


class StoreError(UsageError):
    """The store cannot be read or written."""


class StoreBusyError(StoreError):
    """Another process kept the store's lock until the deadline."""


class StoreVersionError(StoreError):
    """The store was written by a newer version of this library."""


class CorruptReplyError(StoreError):
    """A reply of the store's that cannot be trusted: its checksum or its content is wrong."""
