"""The price books of a process: one file, unchanged, is read once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from receipt_dynamo import ForkGate
from receipt_label.pricing.book import PriceBook

__all__ = ["shared_book"]

_books: dict[tuple[Path | None, int], PriceBook] = {}
_loading = ForkGate()
"""A fork waits for it: a child forked while modules load would find them locked for ever."""
_books_lock = threading.RLock()  # a signal handler may make a tracker within it


def shared_book(path: Path | None) -> PriceBook:
    """Return the book of a price file, or of the bundled prices alone. Thread-safe.

    Raises PriceFileError, in one line, if the file is missing or wrong.
    """
    changed = path.stat().st_mtime_ns if path is not None and path.is_file() else 0
    with _books_lock:
        book = _books.get((path, changed))
        if book is None:
            with _loading:
                book = _books[path, changed] = PriceBook.load(path)
        return book


def _renew_lock() -> None:
    """Take a new lock in a child: a thread of the parent's may have held the old one."""
    global _books_lock  # noqa: PLW0603 - one lock a process
    _books_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)
