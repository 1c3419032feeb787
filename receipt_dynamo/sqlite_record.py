"""One record of a SQLite file: its values, as "Record Format" on sqlite.org lays them out."""

from __future__ import annotations

import struct

__all__ = ["Value", "read_values", "read_varint"]

Value = int | float | str | bytes | None
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)
_FLOAT, _ZERO, _ONE, _FIRST_BLOB = 7, 8, 9, 12


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the integer at ``at``, unsigned, and the place behind it. Raises IndexError."""
    value = data[at]
    if value < 0x80:  # noqa: PLR2004 - the high bit says that another byte follows
        return value, at + 1
    value &= 0x7F
    for at in range(at + 1, at + 8):  # noqa: B020, PLR1704 - one cursor
        byte = data[at]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004
            return value, at + 1
    return value << 8 | data[at + 1], at + 2


def read_values(record: bytes) -> tuple[Value, ...]:
    """Return the values of a record. Raises ValueError, IndexError when it is none.

    A text that is no UTF-8 comes as its bytes.
    """
    end, at = read_varint(record, 0)
    kinds: list[int] = []
    while at < end:
        kind, at = read_varint(record, at)
        kinds.append(kind)
    if at != end:
        raise ValueError("the header of the record ends within a value")
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(kind, record, at)
        values.append(value)
    if at != len(record):
        raise ValueError("the values of the record do not fill it")
    return tuple(values)


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _value(kind: int, record: bytes, at: int) -> tuple[Value, int]:
    """Return the value of a serial type at ``at``, and the place behind it."""
    if kind >= _FIRST_BLOB:
        end = at + (kind - _FIRST_BLOB) // 2
        if end > len(record):
            raise ValueError("a value reaches beyond the record")
        return (_text(record[at:end]) if kind & 1 else record[at:end]), end
    if kind == 0:
        return None, at
    if kind in (_ZERO, _ONE):
        return kind - _ZERO, at
    if kind > _ONE:
        raise ValueError(f"{kind} is no serial type")
    if kind == _FLOAT:
        return struct.unpack(">d", record[at : at + 8].ljust(8, b"\0"))[0], at + 8
    end = at + _INTEGER_BYTES[kind]
    return int.from_bytes(record[at:end], signed=True), end
