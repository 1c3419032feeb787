"""What it costs the shipping process to bring records from the spool into DynamoDB.

Items per second of CPU, each contender alone in a process, against a server that takes everything.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loopback import taking_everything
from benchmarks.report import Part, Row
from benchmarks.samples import in_fresh_process, private_directory, ready_metric
from benchmarks.spooled import spool_directory, write_backlog
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, write_ack

__all__ = ["run"]

_ITEMS = 25_000
_WARM_UP = 500
_ROUNDS = 3
_BATCH = 25
_READ = 500  # lines at a time, as delivery reads them
_GOAL = 5.0
_TABLE = "usage"


def _cpu_seconds(ship: Callable[[], int]) -> tuple[int, float]:
    """Return how many items were shipped, and the CPU seconds of this process, kernel included."""
    begun = time.process_time()
    items = ship()
    return items, time.process_time() - begun


def _credentials(endpoint: str) -> dict[str, Any]:
    return {
        "region_name": "us-east-1",
        "endpoint_url": endpoint,
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
    }


def _with_batch_writer(endpoint: str, directory: Path) -> tuple[int, float]:
    """boto3's own, given items that are ready: what most programs use."""
    import boto3

    from receipt_dynamo.payload import parse_payload
    from receipt_dynamo.store import StoredRecord

    table = boto3.resource("dynamodb", **_credentials(endpoint)).Table(_TABLE)
    items = []
    for payload in _payloads(directory):
        record = parse_payload(payload)
        assert isinstance(record, StoredRecord)
        item = record.metric.to_item()
        hour, time_text = item["timestamp"][:13], item["timestamp"]
        key = {"PK": f"U#{item['service']}#{hour}#0", "SK": f"{time_text}#{item['requestId']}"}
        items.append({**key, "sh": 0, **item})

    def ship(some: list[dict[str, Any]]) -> int:
        with table.batch_writer() as batch:
            for item in some:
                batch.put_item(Item=item)
        return len(some)

    ship(items[:_WARM_UP])
    return _cpu_seconds(lambda: ship(items))


def _payloads(directory: Path) -> Iterable[bytes]:
    for lines, _ in _reads(directory):
        yield from lines


def _reads(directory: Path) -> Iterator[tuple[list[bytes], Callable[[], None]]]:
    """Yield the records of a spool as its reader gives them, and what acknowledges them."""
    for path in list_segments(directory):
        with SegmentReader(path) as segment:
            offset = HEADER_BYTES
            while (lines := segment.read(offset, _READ)).payloads:
                offset = lines.end
                yield lines.payloads, partial(segment.ack, offset)


def _with_the_client(endpoint: str, directory: Path) -> tuple[int, float]:
    """The whole way: lines read and checked, made ready, sent, acknowledged."""
    from receipt_dynamo.dynamo_client import DynamoClient

    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")  # noqa: S106
    client = DynamoClient(_TABLE, region="us-east-1", endpoint_url=endpoint)

    def ship(limit: float) -> int:
        shipped = 0
        for payloads, acknowledge in _reads(directory):
            puts = [client.prepare(payload) for payload in payloads]
            for start in range(0, len(puts), _BATCH):
                assert not client.send(puts[start : start + _BATCH])
            acknowledge()
            shipped += len(payloads)
            if shipped >= limit:
                break
        return shipped

    ship(_WARM_UP)
    return _cpu_seconds(lambda: ship(float("inf")))


def _with_ship(endpoint: str, directory: Path) -> tuple[int, float]:
    """What ``receipt-usage ship`` does: breaker, pace, senders' threads, acks, removal and all."""
    from receipt_dynamo import ResilientDynamoClient

    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")  # noqa: S106
    with private_directory() as usage:
        client = ResilientDynamoClient(
            _TABLE,
            region="us-east-1",
            endpoint_url=endpoint,
            spool_dir=usage,
            drain="manual",
            environment="development",
        )
        client.put_ai_usage_metrics(ready_metric() for _ in range(_WARM_UP))
        client.flush()
        for path in list_segments(directory):
            with Path(shutil.copy(path, client.settings.spool_dir)).open("r+b") as segment:
                write_ack(segment.fileno(), HEADER_BYTES)  # the contenders before have acked it

        def ship() -> int:
            shipped = 0
            while client.pending():
                shipped += client.ship()
            return shipped

        done = _cpu_seconds(ship)
        client.close()
        return done


def _with_write(endpoint: str, directory: Path) -> tuple[int, float]:
    """The same for ``write``, which takes metrics: each is read from its payload, and checked."""
    from receipt_dynamo.dynamo_client import DynamoClient
    from receipt_dynamo.payload import parse_payloads
    from receipt_dynamo.store import Batch
    from receipt_dynamo.utils.clock import SystemClock

    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")  # noqa: S106
    client = DynamoClient(_TABLE, region="us-east-1", endpoint_url=endpoint)
    clock = SystemClock()

    def ship(limit: float) -> int:
        shipped = 0
        for payloads, acknowledge in _reads(directory):
            records = parse_payloads(payloads, clock).records
            outcome = client.write(Batch(records=records, segment="s", position=0))
            assert outcome.acknowledged == len(payloads)
            acknowledge()
            shipped += len(payloads)
            if shipped >= limit:
                break
        return shipped

    ship(_WARM_UP)
    return _cpu_seconds(lambda: ship(float("inf")))


def _with_ready_bodies(endpoint: str, directory: Path) -> tuple[int, float]:
    """botocore with a body that is ready: signature and HTTP, what no client of it can save."""
    from receipt_dynamo.dynamo_connection import DynamoConnection
    from receipt_dynamo.dynamo_wire import batch_body, put_of
    from receipt_dynamo.table import Shards

    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")  # noqa: S106
    connection = DynamoConnection(_TABLE, region="us-east-1", endpoint_url=endpoint)
    puts = [put_of(payload, Shards()) for payload in _payloads(directory)]
    bodies = [batch_body(_TABLE, puts[n : n + _BATCH]) for n in range(0, len(puts), _BATCH)]

    def ship(some: list[bytes]) -> int:
        for body in some:
            connection.call("BatchWriteItem", body)
        return len(some) * _BATCH

    ship(bodies[: _WARM_UP // _BATCH])
    return _cpu_seconds(lambda: ship(bodies))


_CONTENDERS = {
    "boto3 Table.batch_writer, ready items": _with_batch_writer,
    "botocore, ready bodies": _with_ready_bodies,
    "DynamoClient.send, from the spool": _with_the_client,
    "DynamoClient.write, from the spool": _with_write,
    "receipt-usage ship, from the spool": _with_ship,
}


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Return the table. The contenders take turns; the best round of each counts."""
    items = max(4 * _BATCH, int(_ITEMS * scale) // _BATCH * _BATCH)
    best: dict[str, float] = dict.fromkeys(_CONTENDERS, 0.0)
    with private_directory() as directory, taking_everything() as endpoint:
        write_backlog(directory, items)
        for number in range(_ROUNDS):
            for name, contender in _CONTENDERS.items():
                say(f"wire, round {number + 1} of {_ROUNDS}: {name}")
                shipped, seconds = in_fresh_process(contender, endpoint, spool_directory(directory))
                best[name] = max(best[name], shipped / max(seconds, 1e-9))
    slowest = best["boto3 Table.batch_writer, ready items"]
    rows = [
        Row(
            name,
            {
                "items per CPU second": rate,
                "us of CPU per item": 1e6 / rate,
                "times batch_writer": rate / slowest,
            },
            yardstick=name.startswith("bot"),
        )
        for name, rate in best.items()
    ]
    return [
        Part(
            "wire",
            f"records into DynamoDB, {items:,} a round, by the CPU time of the shipping process",
            rows,
            f"goal: at least 4 times batch_writer, better {_GOAL:g} times",
        )
    ]
