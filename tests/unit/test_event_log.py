"""Bytes of streams in pieces: events, frames and lines are found however they are cut."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker
from receipt_label.instrumentation.anthropic import _ResultsLog
from receipt_label.instrumentation.event_log import EventLog, FrameLog

REPLY = {"type": "message", "usage": {"prompt_tokens": 1200, "completion_tokens": 300}}


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ends_of_every_kind_are_found_in_one_stream(size: int, hide: bool) -> None:
    """A lone CRLF ends no event, and what stood before an end never makes another."""
    ends = [b"\n\n", b"\n\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\r\n\r\n", b"\n\r\n\n"]
    body = b"".join(b"event: a\r\ndata: [DONE]%d" % n + end for n, end in enumerate(ends * 2))
    whole, cut = EventLog(hide_usage=hide), EventLog(hide_usage=hide)
    assert whole.feed(body) + whole.rest() == body
    shown = b"".join(cut.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert shown + cut.rest() == body
    assert cut.reply() == whole.reply()


def framed(event: object, headers: bytes = b"xyz") -> bytes:
    payload = json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()}).encode()
    lengths = struct.pack(">III", 16 + len(headers) + len(payload), len(headers), 0)
    return lengths + headers + payload + b"0000"


@pytest.mark.parametrize("size", [1, 5, 100, 10_000])
def test_frames_are_found_however_their_bytes_are_cut(size: int) -> None:
    """And passed on as they are; what is no frame ends the reading, not the stream."""
    body = b"".join(framed(event) for event in ({"type": "ping"}, REPLY, {"type": "message_stop"}))
    body += b"<html>no frame</html>"
    log = FrameLog()
    assert b"".join(log.feed(body[at : at + size]) for at in range(0, len(body), size)) == body
    kept = log.reply()
    assert isinstance(kept, bytes)
    assert kept.count(b"data:") == 3
    assert b'"prompt_tokens": 1200' in kept


class Piece(bytes):
    """A piece of a body that counts the bytes that are put in front of it."""

    copied = 0

    def __radd__(self, before: bytes) -> bytes:
        Piece.copied += len(before)
        return bytes(before) + bytes(self)


@pytest.mark.parametrize("kind", ["events", "hiding", "frames"])
def test_the_work_on_a_large_event_grows_with_its_size_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image in one event of 1 MB, in pieces of 4 KB: no piece makes all before it anew."""
    logs = {"events": EventLog(), "hiding": EventLog(hide_usage=True), "frames": FrameLog()}
    log = logs[kind]
    image = {"type": "image_generation.partial_image", "b64_json": "A" * (1 << 20)}
    body = framed(image) if kind == "frames" else b"data: " + json.dumps(image).encode() + b"\n\n"
    monkeypatch.setattr(Piece, "copied", 0)
    pieces = [Piece(body[at : at + 4096]) for at in range(0, len(body), 4096)]
    shown = b"".join(log.feed(piece) for piece in pieces)
    assert shown + log.rest() == body
    assert Piece.copied < len(body)
    assert log.reply() is not None


def test_the_work_on_a_large_line_of_a_batch_grows_with_its_size_alone(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result of 1 MB in pieces of 4 KB; lines are found however they are cut."""
    lines: list[bytes] = []
    monkeypatch.setattr(
        "receipt_label.instrumentation.anthropic.record_line",
        lambda tracker, line, **fields: lines.append(line),
    )
    monkeypatch.setattr(Piece, "copied", 0)
    sent = [b"{}", b"A" * (1 << 20), b"B" * 4096, b"last"]
    body = b"\n".join(sent)
    log = _ResultsLog(AIUsageTracker(client), "msgbatch_01", None)
    pieces = [Piece(body[at : at + 4096]) for at in range(0, len(body), 4096)]
    assert b"".join(log.feed(piece) for piece in pieces) + log.rest() == body
    assert lines == sent
    assert Piece.copied < len(body)
