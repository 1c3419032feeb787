"""Files of replies, in every form that they come in."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from receipt_label.importers import source as sources
from receipt_label.importers.source import Item, SourceError, open_source, read_items

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)


def read(path: Path) -> list[Item]:
    with open_source(str(path), NOW) as source:
        return list(read_items(source))


def read_bytes(tmp_path: Path, data: bytes) -> list[Item]:
    path = tmp_path / "file"
    path.write_bytes(data)
    return read(path)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    """Blank lines are left out and still count."""
    items = read_bytes(tmp_path, b'\n{"a":1}\n\n   \n{"b":2}')

    assert items == [Item(":2", {"a": 1}), Item(":5", {"b": 2})]


def test_windows_line_ends_and_a_byte_order_mark_are_tolerated(tmp_path: Path) -> None:
    """What a Windows editor adds is no part of the JSON."""
    items = read_bytes(tmp_path, b'\xef\xbb\xbf{"a":1}\r\n\r\n{"b":2}\r\n')

    assert [item.value for item in items] == [{"a": 1}, {"b": 2}]


def test_a_bad_line_does_not_stop_the_others(tmp_path: Path) -> None:
    """Each fault has its line; what is before and behind it is read."""
    items = read_bytes(tmp_path, b'{"a":1}\n{"b":\n\xff\n7\n{"c":3}\n')

    assert [item.value for item in items] == [{"a": 1}, None, None, 7, {"c": 3}]
    assert [item.place for item in items if item.fault] == [":2", ":3"]


@pytest.mark.parametrize("bad", [b'{"id": "cut', b"nonsense", b"\xff\xfd", b"[[[", b"{'a': 1}"])
def test_a_bad_first_line_does_not_stop_the_others(tmp_path: Path, bad: bytes) -> None:
    """A file is not taken for one document only because its first line is broken."""
    items = read_bytes(tmp_path, bad + b'\n{"a":1}\n{"b":2}\n')

    assert items[0].fault
    assert [(item.place, item.value) for item in items[1:]] == [(":2", {"a": 1}), (":3", {"b": 2})]


def test_one_pretty_printed_reply_is_one_value(tmp_path: Path) -> None:
    """A single document over many lines is detected."""
    reply = {"id": "x", "usage": {"input": [1, 2]}}

    items = read_bytes(tmp_path, json.dumps(reply, indent=2).encode())

    assert items == [Item("", reply)]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_its_elements(tmp_path: Path, indent: int | None) -> None:
    """An array of replies, on one line or on many, gives each with its number."""
    items = read_bytes(tmp_path, json.dumps([{"a": 1}, {"b": 2}], indent=indent).encode())

    assert items == [Item(", item 1", {"a": 1}), Item(", item 2", {"b": 2})]


def test_chunks_of_one_stream_stay_together(tmp_path: Path) -> None:
    """Gemini streams a JSON array whose chunks repeat the counts: that is one reply, not many."""
    chunks = [{"responseId": "r1", "n": 1}, {"responseId": "r1", "n": 2}]

    assert read_bytes(tmp_path, json.dumps(chunks).encode()) == [Item("", chunks)]


def test_the_text_of_an_event_stream_is_one_value(tmp_path: Path) -> None:
    """A file that holds what a streaming service sent is one reply."""
    text = 'data: {"a": 1}\n\ndata: [DONE]\n\n'

    assert read_bytes(tmp_path, text.encode()) == [Item("", text)]


def test_a_truncated_document_is_one_fault(tmp_path: Path) -> None:
    """A pretty-printed reply that was cut off is one clear line, not one for each of its lines."""
    text = json.dumps({"id": "x", "usage": {"input": [1, 2]}}, indent=2)

    items = read_bytes(tmp_path, text[:-10].encode())

    assert [item.place for item in items] == [""]
    assert items[0].fault
    assert "truncated" in items[0].fault


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    """A compressed file is known by its bytes, whatever its name."""
    items = read_bytes(tmp_path, gzip.compress(b'{"a":1}\n{"b":2}\n'))

    assert [item.value for item in items] == [{"a": 1}, {"b": 2}]


def test_a_cut_gzip_file_is_one_clear_fault(tmp_path: Path) -> None:
    """Damaged compression is said once, behind what could be read."""
    packed = gzip.compress(b"".join(b'{"a":%d}\n' % n for n in range(20_000)))
    path = tmp_path / "cut.gz"
    path.write_bytes(packed[: len(packed) // 2])

    with pytest.raises(SourceError, match="gzip data is damaged"):
        read(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n \r\n\n", "is empty"),
        (b"SQLite format 3\x00\x10\x00", "binary"),
        (b'{"a": 1}\n\x00\x00', "binary"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(b"\x00" * 100, mtime=0), "binary"),
    ],
)
def test_what_holds_no_lines_is_one_clear_fault(tmp_path: Path, data: bytes, reason: str) -> None:
    """An empty or a binary file is refused as a whole."""
    with pytest.raises(SourceError, match=reason):
        read_bytes(tmp_path, data)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    """The reason is in plain words."""
    with pytest.raises(SourceError, match="no such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="is a directory"):
        read(tmp_path)


def test_a_line_of_many_megabytes_is_read(tmp_path: Path) -> None:
    """Embeddings make long lines."""
    long = {"data": "x" * (20 << 20)}

    items = read_bytes(tmp_path, json.dumps(long).encode() + b'\n{"b":2}\n')

    assert [item.value for item in items] == [long, {"b": 2}]


def test_a_line_beyond_the_bound_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded: such a line is a fault, and the next one is read."""
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 100)

    items = read_bytes(tmp_path, b'{"a":1}\n"' + b"x" * 1000 + b'"\n{"b":2}\n')

    assert [item.value for item in items] == [{"a": 1}, None, {"b": 2}]
    assert items[1].place == ":2"


def test_a_bad_first_line_of_a_huge_file_does_not_read_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for one document stops at a bound, and nothing behind it is lost."""
    monkeypatch.setattr(sources, "MAX_DOCUMENT_BYTES", 64)
    lines = b"".join(b'{"n":%d}\n' % n for n in range(1000))

    items = read_bytes(tmp_path, b'{"cut": \n' + lines)

    assert [item.value for item in items[1:]] == [{"n": n} for n in range(1000)]
    assert items[-1].place == ":1001"


def test_the_time_of_a_file_is_that_of_its_last_change(tmp_path: Path) -> None:
    """To the microsecond, so that it can be given again with --at."""
    path = tmp_path / "file"
    path.write_bytes(b"{}")
    import os

    os.utime(path, ns=(0, 1_763_755_200_123_456_789))

    with open_source(str(path), NOW) as source:
        assert source.modified == datetime(2025, 11, 21, 20, 0, 0, 123456, UTC)


def test_standard_input_is_dated_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes through a pipe has no time of change."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a":1}\n')))

    with open_source("-", NOW) as source:
        assert (source.modified, source.size) == (NOW, None)
        assert [item.value for item in read_items(source)] == [{"a": 1}]


def test_a_named_pipe_is_dated_now(tmp_path: Path) -> None:
    """Process substitution names a pipe; its time of change says nothing about the replies."""
    import os
    import threading

    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b'{"a":1}\n',))
    writer.start()

    with open_source(str(path), NOW) as source:
        assert (source.modified, source.size) == (NOW, None)
        assert [item.value for item in read_items(source)] == [{"a": 1}]
    writer.join()
