"""How people write usage records to DynamoDB today, each with its library's defaults.

A contender lives in a worker's process. What it needs of a record is made ready before the clock
runs: measured is what the pipeline waits for. ``ours.py`` has this library and its variants.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from benchmarks.stress.ledger import Answer
from benchmarks.stress.records import table_item
from receipt_dynamo import AIUsageMetric

__all__ = [
    "CONTENDERS",
    "Contender",
    "ContenderType",
    "Place",
    "Recorder",
    "missing_package",
    "open_contender",
]

_log = logging.getLogger("benchmarks.stress")
_BATCH, _LINGER_SECONDS = 25, 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender writes: the endpoint and table, and a directory of its own."""

    endpoint: str
    table: str
    directory: Path


class Recorder(Protocol):
    """What one worker of the pipeline records with."""

    def prepare(self, metric: AIUsageMetric) -> Any:
        """Return what ``record`` takes; not measured."""

    def record(self, prepared: Any) -> Answer:
        """Record one call. What it raises reaches the pipeline."""

    def close(self) -> None:
        """The worker is done."""


class Contender(Protocol):
    """One way to write, in one process."""

    def recorder(self) -> Recorder:
        """Return what a worker records with."""

    def finish(self, seconds: float) -> dict[str, Any]:
        """Deliver what is left, as its users do at the end; return what it tells of itself."""


@dataclass(frozen=True, slots=True)
class ContenderType:
    """How a contender is called and made."""

    label: str
    text: str
    home: str
    ours: bool = False
    package: str | None = None


def missing_package(names: Iterable[str]) -> str | None:
    """Return who of these cannot run for want of a package, as one line; None where all can."""
    for name in names:
        package = CONTENDERS[name].package
        if package is not None and find_spec(package) is None:
            return (
                f"the contender {name} needs the package {package}, which is not installed: "
                "pip install '.[stress]' in the checkout, or name others with --contender"
            )
    return None


def open_contender(name: str, place: Place) -> Contender:
    """Make a contender in this process."""
    module, _, factory = CONTENDERS[name].home.partition(":")
    make: Callable[[Place], Contender] = getattr(import_module(module), factory)
    return make(place)


def _table(place: Place, mode: str | None = None) -> Any:
    """Return boto3's table with its defaults, or with another retry mode."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session(region_name="us-east-1")
    config = Config(retries={"mode": mode}) if mode else None
    resource = session.resource("dynamodb", endpoint_url=place.endpoint, config=config)
    return resource.Table(place.table)


class _Direct:
    """``put_item`` for each record, on the caller's thread."""

    def __init__(self, place: Place, mode: str | None = None) -> None:
        self._place, self._mode = place, mode

    def recorder(self) -> Recorder:
        return _DirectRecorder(_table(self._place, self._mode))

    def finish(self, seconds: float) -> dict[str, Any]:
        return {}


class _DirectRecorder:
    def __init__(self, table: Any) -> None:
        self._table = table

    def prepare(self, metric: AIUsageMetric) -> Any:
        return table_item(metric)

    def record(self, prepared: Any) -> Answer:
        self._table.put_item(Item=prepared)
        return Answer.ACCEPTED

    def close(self) -> None:
        """Nothing is held."""


def adaptive(place: Place) -> Contender:
    """``put_item`` with botocore's adaptive retries."""
    return _Direct(place, "adaptive")


class _BatchWriter:
    """``Table.batch_writer`` of each worker, open as long as it works."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def recorder(self) -> Recorder:
        return _BatchWriterRecorder(_table(self._place).batch_writer())

    def finish(self, seconds: float) -> dict[str, Any]:
        return {}


class _BatchWriterRecorder:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def prepare(self, metric: AIUsageMetric) -> Any:
        return table_item(metric)

    def record(self, prepared: Any) -> Answer:
        self._writer.put_item(Item=prepared)
        return Answer.ACCEPTED

    def close(self) -> None:
        with suppress(Exception):  # the last batch fails as others did before it
            self._writer.__exit__(None, None, None)


class _QueueThread:
    """A queue and a thread that writes batches: what many write by hand."""

    def __init__(self, place: Place) -> None:
        self._table = _table(place)
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def recorder(self) -> Recorder:
        return self

    def prepare(self, metric: AIUsageMetric) -> Any:
        return table_item(metric)

    def record(self, prepared: Any) -> Answer:
        self._queue.put(prepared)
        return Answer.ACCEPTED

    def close(self) -> None:
        """The queue is of all workers."""

    def _run(self) -> None:
        ended = False
        while not ended:
            items, ended = self._batch()
            try:
                with self._table.batch_writer() as batch:
                    for item in items:
                        batch.put_item(Item=item)
            except Exception:
                _log.exception("%d usage records could not be written", len(items))

    def _batch(self) -> tuple[list[Any], bool]:
        items: list[Any] = []
        until = time.monotonic() + _LINGER_SECONDS
        while len(items) < _BATCH and (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                item = self._queue.get(timeout=left)
                if item is None:
                    return items, True
                items.append(item)
        return items, False

    def finish(self, seconds: float) -> dict[str, Any]:
        self._queue.put(None)
        self._thread.join(seconds)
        return {}


class _Pynamo:
    """PynamoDB's ``Model.batch_write`` of each worker, with its defaults."""

    def __init__(self, place: Place) -> None:
        from pynamodb.attributes import (
            MapAttribute,
            NumberAttribute,
            UnicodeAttribute,
        )
        from pynamodb.models import Model

        class Usage(Model):
            class Meta:
                table_name = place.table
                host = place.endpoint
                region = "us-east-1"

            PK = UnicodeAttribute(hash_key=True)
            SK = UnicodeAttribute(range_key=True)

        texts = "service model operation timestamp requestId priceSource unpricedReason status"
        numbers = (
            "sh apiCalls inputTokens outputTokens totalTokens cachedInputTokens latencyMs costUSD"
        )
        kinds: dict[str, Any] = {
            **dict.fromkeys(f"{texts} jobId environment".split(), UnicodeAttribute),
            **dict.fromkeys(numbers.split(), _exact_number(NumberAttribute)),
            "metadata": MapAttribute,
        }
        attributes = {name: kind(null=True) for name, kind in kinds.items()}
        self._model: Any = type("UsageRecord", (Usage,), {**attributes, "Meta": Usage.Meta})

    def recorder(self) -> Recorder:
        return _PynamoRecorder(self._model, self._model.batch_write())

    def finish(self, seconds: float) -> dict[str, Any]:
        return {}


def _exact_number(base: Any) -> Any:
    """Return PynamoDB's number attribute for Decimal: its own reads and writes JSON numbers."""

    class DecimalAttribute(base):  # type: ignore[misc]
        def serialize(self, value: Any) -> str:
            return str(value)

    return DecimalAttribute


class _PynamoRecorder:
    def __init__(self, model: Any, writer: Any) -> None:
        self._model, self._writer = model, writer

    def prepare(self, metric: AIUsageMetric) -> Any:
        return self._model(**table_item(metric))

    def record(self, prepared: Any) -> Answer:
        self._writer.save(prepared)
        return Answer.ACCEPTED

    def close(self) -> None:
        with suppress(Exception):
            self._writer.__exit__(None, None, None)


class _Nothing:
    """No tracking at all: the yardstick of what the pipeline could do."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def recorder(self) -> Recorder:
        return self

    def prepare(self, metric: AIUsageMetric) -> Any:
        return metric

    def record(self, prepared: Any) -> Answer:
        return Answer.DROPPED

    def close(self) -> None:
        """Nothing is held."""

    def finish(self, seconds: float) -> dict[str, Any]:
        return {}


_HERE, _OURS = "benchmarks.stress.contenders", "benchmarks.stress.ours"
CONTENDERS: dict[str, ContenderType] = {
    "receipt-usage": ContenderType(
        "this library",
        "an append to the spool; a drainer ships batches",
        f"{_OURS}:Ours",
        ours=True,
    ),
    "put_item": ContenderType(
        "put_item", "boto3's put_item for each record, its default retries", f"{_HERE}:_Direct"
    ),
    "put_item-adaptive": ContenderType(
        "put_item, adaptive", "the same with botocore's adaptive retries", f"{_HERE}:adaptive"
    ),
    "batch_writer": ContenderType(
        "batch_writer", "boto3's Table.batch_writer, one for each worker", f"{_HERE}:_BatchWriter"
    ),
    "queue-thread": ContenderType(
        "queue and thread",
        "a queue.Queue and a daemon thread with batch_writer; errors are logged",
        f"{_HERE}:_QueueThread",
    ),
    "pynamodb": ContenderType(
        "PynamoDB",
        "Model.batch_write, one for each worker",
        f"{_HERE}:_Pynamo",
        package="pynamodb",
    ),
    "nothing": ContenderType("no tracking", "nothing is recorded", f"{_HERE}:_Nothing"),
    "full-jitter": ContenderType(
        "ours, full jitter",
        "this library with full jitter (base 1 s, cap 5 s) in place of its limiter",
        f"{_OURS}:full_jitter",
        ours=True,
    ),
    "no-breaker": ContenderType(
        "ours, no breaker",
        "this library with a breaker that never opens",
        f"{_OURS}:no_breaker",
        ours=True,
    ),
    "mutant-drops": ContenderType(
        "mutant: drops",
        "ours, broken: one record in a thousand is dropped",
        f"{_OURS}:mutant_drops",
        ours=True,
    ),
    "mutant-acks-early": ContenderType(
        "mutant: acks early",
        "ours, broken: acknowledged before the store has answered",
        f"{_OURS}:mutant_acks_early",
        ours=True,
    ),
    "mutant-counts-throttles": ContenderType(
        "mutant: counts throttles",
        "ours, broken: the breaker counts a throttle as a failure",
        f"{_OURS}:mutant_counts_throttles",
        ours=True,
    ),
}
"""By name. Those after ``pynamodb`` are yardsticks, variants, and defects that must be found."""
