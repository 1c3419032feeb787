"""Whatever lies in the directories of a spool: nobody waits for it, and all the rest goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo import HealthLevel, Settings, UsageClient, read_health
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from tests.support import encode, in_fork, make_metric, stored_ids

Open = Callable[..., UsageClient]
NESTED = b"[" * 100_000 + b"]" * 100_000


def pipe(name: str) -> Callable[[Path], None]:
    def put(spool: Path) -> None:
        (spool / name).parent.mkdir(mode=0o700, exist_ok=True)
        (spool / name).unlink(missing_ok=True)
        os.mkfifo(spool / name)

    return put


def directory(name: str) -> Callable[[Path], None]:
    return lambda spool: (spool / name).mkdir(parents=True)


def file(name: bytes, content: bytes) -> Callable[[Path], None]:
    def put(spool: Path) -> None:
        path = Path(os.fsdecode(os.fsencode(spool) + b"/" + name))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(content)

    return put


@pytest.mark.parametrize(
    "put",
    [
        pipe("1-1-a.seg"),
        pipe("leader"),
        pipe("drain.lock"),
        pipe("dead/a.jsonl"),
        pipe("stats/1-00000000.json"),
        pipe("stats/total.json"),
        directory("1-1-a.seg"),
        directory("1-1-a.new"),
        file(b"1-\xff.seg", format_header(HEADER_BYTES)),
        file("²-1-a.new".encode(), b""),
        file(b"stats/total.json", b'{"figures":{"else":' + NESTED + b"}}"),
        file(b"1-1-a.seg", format_header(HEADER_BYTES) + encode_line(NESTED)),
        file(b"1-1-a.seg", format_header(HEADER_BYTES) + encode_line(b'{"x":' + NESTED + b"}")),
    ],
)
def test_a_foreign_file_stops_nothing(open_client: Open, put: Callable[[Path], None]) -> None:
    """Health, a flush, a drainer's round, a report and closing: each ends, and does its work.

    In a child, for what waits for a pipe can be ended by a signal only.
    """
    client = open_client()
    settings: Settings = client.settings
    client.put_ai_usage_metric(make_metric(request_id="a"))
    client.flush()
    client.put_ai_usage_metric(make_metric(request_id="b"))
    put(settings.spool_dir)

    def look() -> None:
        with open_client() as child:
            assert read_health(settings).level in HealthLevel
            assert child.pending() >= 1
            child.put_ai_usage_metric(make_metric(request_id="c"))
            child.ship()
            child.flush()
            assert stored_ids(child) == ["a", "b", "c"]
            assert child.health().level in HealthLevel

    assert in_fork(look) == 0


def test_a_record_nested_beyond_reason_dies_alone(client: UsageClient) -> None:
    """It is none of ours, though its CRC is right; what lies around it is delivered."""
    client.put_ai_usage_metric(make_metric(request_id="a"))
    with (client.settings.spool_dir / "1-1-a.seg").open("wb") as segment:
        segment.write(format_header(HEADER_BYTES) + encode_line(NESTED))
        segment.write(encode_line(encode(make_metric(request_id="b"))))
    assert client.take_in().dead == 1
    assert stored_ids(client) == ["a", "b"]
