"""What a chaos proxy did to each request, as lines of JSON, in the order in which they ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

__all__ = ["Request", "RequestLog", "read_log", "unknown_ids"]

_BLOCK_LINES = 256
ENGINE_LOST = "engine_lost"
"""The fault of a request that the engine itself gave no reply to: no doing of the schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request and what was done to it.

    ``t``: monotonic seconds since time zero on arrival; ``wall``: ``time.time()`` then. ``sent``:
    how many items a write holds, 0 for anything else. ``applied``: how many of them the engine says
    it has written. ``ids``: the items' request ids, ``left``: those not applied. ``units``: write
    units taken from the buckets. ``status``: what the client saw, None: no whole reply. ``ms``:
    until it had its reply, or the connection was gone. ``connection`` counts from 1.
    """

    t: float
    wall: float
    op: str
    table: str
    sent: int
    applied: int
    ids: list[str]
    units: int
    fault: str
    status: int | None
    ms: float
    connection: int
    left: list[str] = field(default_factory=list)

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what of it the engine has written."""
        return self.fault == ENGINE_LOST


_decode = msgspec.json.Decoder(Request).decode
_encode = msgspec.json.encode


class RequestLog:
    """The file of a run, written in blocks; complete after ``close``. Without a path: nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("wb", buffering=0) if path else None
        self._lines: list[bytes] = []

    def add(self, request: Request) -> None:
        """Note a request."""
        if self._file is None:
            return
        fields = asdict(request) if request.left else _without_left(request)
        self._lines.append(_encode(fields))
        if len(self._lines) >= _BLOCK_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet in the file."""
        if self._file is not None and self._lines:
            self._file.write(b"\n".join([*self._lines, b""]))
            self._lines.clear()

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def _without_left(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in _FIELDS}


_FIELDS = [name for name in Request.__slots__ if name != "left"]


def read_log(path: str | Path) -> Iterator[Request]:
    """Yield the requests of a log in the order in which they ended.

    A last line that was cut off is left out. Raises ValueError for any other line that is none.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _decode(line)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path}, line {number}, is no request: {error}") from error


def unknown_ids(requests: Iterable[Request]) -> set[str]:
    """Return the ids of writes that reached the engine and whose answer nobody saw."""
    return {name for one in requests if one.fault == ENGINE_LOST for name in one.ids}
