"""Request ids that no two processes ever mint alike.

An id is ``<16 hex digits of a process nonce>-<counter>``: cheaper than a uuid4, and sortable
within a process. The nonce changes after a fork, whether Python forked (the at-fork hook) or C did
(the mark of the process): two records under one id would be a silent loss.
"""

from __future__ import annotations

import itertools
import os

from receipt_dynamo.process_mark import process_mark

__all__ = ["mint_request_id"]


class _Mint:
    __slots__ = ("counter", "mark", "nonce")

    def __init__(self) -> None:
        self.mark = process_mark()
        self.nonce = os.urandom(8).hex()
        self.counter = itertools.count(1)


_mint = _Mint()


def _renew() -> None:
    global _mint  # noqa: PLW0603 - one mint a process is the point
    _mint = _Mint()


os.register_at_fork(after_in_child=_renew)


def mint_request_id() -> str:
    """Return an id that is unique over all processes and hosts. Thread-safe. Raises nothing."""
    mint = _mint
    if not mint.mark[0]:
        _renew()
        mint = _mint
    return f"{mint.nonce}-{next(mint.counter)}"
