"""Logging that cannot harm: a handler of the pipeline's that raises must not reach its caller."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

__all__ = ["SafeLogger", "safe_logger"]


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose calls raise nothing, whatever its handlers do."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log as ``logging.Logger.log`` does, and swallow what a handler raises."""
        with suppress(Exception):
            super().log(level, msg, *args, **kwargs)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave the message as it is."""
        return msg, kwargs


def safe_logger(name: str) -> SafeLogger:
    """Return the logger ``name``, safe to call on the way of a record."""
    return SafeLogger(logging.getLogger(name), {})
