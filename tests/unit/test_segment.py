"""The format of a segment, byte for byte, and what any damage to it can cost."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo.spool.segment import (
    HEADER_BYTES,
    UnknownFormatError,
    encode_line,
    format_header,
    parse_header,
    split_lines,
)

RECORDS = [b'{"n":%d,"text":"\\u00fc \\" %s"}' % (n, b"x" * (n % 13)) for n in range(8)]
LINES = b"".join(encode_line(record) for record in RECORDS)


def test_the_format_is_the_documented_one_byte_for_byte() -> None:
    """A file of this version can be read by any other program, and by every later version."""
    assert format_header(1234) == b"#spool1 ack=1205000000001234\n"
    assert format_header(HEADER_BYTES) == b"#spool1 ack=0000000000000029\n"
    assert len(format_header(0)) == HEADER_BYTES == 29
    assert encode_line(b'{"a":1}') == b'%08x {"a":1}\n' % crc32(b'{"a":1}')
    assert encode_line(b"123456789") == b"cbf43926 123456789\n"  # the check value of CRC-32


def test_an_ack_survives_its_header() -> None:
    """Every offset up to the widest comes back; none lies before the first record."""
    for ack in (HEADER_BYTES, 1234, 10**12 - 1):
        assert parse_header(format_header(ack)) == ack
    assert parse_header(format_header(0)) == HEADER_BYTES


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\n",
        b"#spool1",
        b"#spool1 ack=00000000000012x4\n",
        b"#spool ack=",
        b"x" * 29,
        b"\0" * 29,
    ],
)
def test_a_damaged_header_means_send_again(header: bytes) -> None:
    """Sending twice under fixed keys is harmless; skipping would lose."""
    assert parse_header(header) == HEADER_BYTES


@given(ack=st.integers(HEADER_BYTES, 10**12 - 1), at=st.integers(12, 27), digit=st.integers(0, 9))
def test_an_ack_with_a_digit_changed_skips_nothing(ack: int, at: int, digit: int) -> None:
    """Records of one length end at round numbers: a wrong ack may be the end of a record too."""
    header = bytearray(format_header(ack))
    header[at] = ord(str(digit))
    assert parse_header(bytes(header)) in {HEADER_BYTES, ack}


@pytest.mark.parametrize("header", [b"#spool2 ack=0000000000001234\n", b"#spool10 x", b"#spool0 "])
def test_another_version_is_told_from_damage(header: bytes) -> None:
    """A newer format is never misread as this one."""
    with pytest.raises(UnknownFormatError, match="#spool"):
        parse_header(header)


def test_a_reader_takes_no_more_than_its_limit_and_goes_on_where_it_stopped() -> None:
    """Batches of any size give the same records in the same order."""
    for limit in range(1, len(RECORDS) + 2):
        offset, found = 100, []
        while True:
            lines = split_lines(LINES[offset - 100 :], offset, limit)
            if lines.end == offset:
                break
            assert len(lines.payloads) <= limit
            found += lines.payloads
            offset = lines.end
        assert (found, offset) == (RECORDS, 100 + len(LINES))


def test_cut_at_any_byte_only_the_last_record_waits() -> None:
    """A write that is still going on, or was torn, never shows half a record."""
    for size in range(len(LINES) + 1):
        lines = split_lines(LINES[:size], 0, 100)
        whole = LINES[:size].count(b"\n")
        assert (lines.payloads, lines.bad) == (RECORDS[:whole], [])
        assert lines.end == LINES.rfind(b"\n", 0, size) + 1


@given(st.integers(0, len(LINES) - 1), st.integers(1, 255))
def test_any_damaged_byte_costs_only_the_record_it_touches(offset: int, flip: int) -> None:
    """One record at most is bad, it is reported, and all others come out, in their order."""
    data = bytearray(LINES)
    data[offset] ^= flip
    lines = split_lines(bytes(data), 0, 100)
    index = LINES.count(b"\n", 0, offset)
    others = [record for n, record in enumerate(RECORDS) if n != index]
    if offset == len(LINES) - 1:  # the last newline: the record waits
        assert (lines.payloads, lines.bad, lines.damaged) == (others, [], [])
        return
    if RECORDS[index] in lines.payloads:  # a last brace that became a newline
        assert lines.payloads == RECORDS
        return
    assert lines.payloads == others
    assert lines.bad
    assert len(lines.damaged) >= 1
    assert lines.end == len(LINES)


@pytest.mark.parametrize("end", [b"\n", b"}\n"])
def test_a_record_that_lacks_only_its_end_is_whole(end: bytes) -> None:
    """A write that was cut short by its last bytes is STORED: every reader restores it."""
    cut = encode_line(RECORDS[1]).removesuffix(end)
    lines = split_lines(encode_line(RECORDS[0]) + cut + b"\n\n" + encode_line(RECORDS[2]), 0, 100)
    assert (lines.payloads, lines.bad, lines.damaged) == (RECORDS[:3], [], [])


def test_records_that_a_damaged_newline_has_joined_are_told_apart() -> None:
    """Their own bytes are sound: none of them is lost."""
    joined = b"?".join(encode_line(record)[:-1] for record in RECORDS[:3])
    for end in (b"\n", b"?\n"):
        lines = split_lines(joined + end, 50, 100)
        assert (lines.payloads, lines.bad, lines.damaged) == (RECORDS[:3], [], [])


def test_damaged_records_that_are_joined_are_counted_one_by_one() -> None:
    """Two of three are lost: each is a loss of its own, and the one between them comes out."""
    lines = [encode_line(record)[:-1] for record in RECORDS[:3]]
    lines[0], lines[2] = lines[0].replace(b"n", b"m", 1), lines[2].replace(b"n", b"m", 1)
    found = split_lines(b"?".join(lines) + b"\n", 50, 100)
    third = len(lines[0]) + len(lines[1]) + 2
    assert (found.payloads, found.damaged) == (RECORDS[1:2], [50, 50 + third])
    assert found.bad == [lines[0] + b"?", lines[2]]


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_rubbish_around_a_record_never_hides_it(before: bytes, after: bytes) -> None:
    """A reader finds its way again at the next newline."""
    data = before + b"\n" + encode_line(RECORDS[3]) + after + b"\n"
    assert RECORDS[3] in split_lines(data, 0, 1000).payloads


def test_empty_lines_count_as_nothing() -> None:
    """A writer puts one after a torn record; it is no damage."""
    lines = split_lines(b"\n\n" + encode_line(b"{}") + b"\n", 0, 10)
    assert (lines.payloads, lines.bad) == ([b"{}"], [])


def test_a_damaged_line_full_of_what_looks_like_records_is_read_in_no_time() -> None:
    """Text may hold beginnings of records by the thousand: they are not tried with each other."""
    line = b"0badc0de " + b'{"text":"' + b"0123abcd {" * 35_000 + b'"}'
    lines = split_lines(line + b"\n" + encode_line(b"{}"), 0, 10)
    assert lines.payloads == [b"{}"]
    assert lines.damaged
