"""A spool, a table in memory, and the delivery between them, in the calling thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from receipt_dynamo import StoreError
from receipt_dynamo.delivery import DeliveryReport
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.table_delivery import TableDelivery
from tests.support import FakeClock, encode, make_metric
from tests.support.fake_table import FakeTable

__all__ = ["TableBench", "names"]


class TableBench:
    """A spool, a table, and the delivery between them: senders run in the calling thread."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory / "spool"
        self.clock = FakeClock()
        self.table = FakeTable()
        self.options = {"start_thread": lambda _work: False, "clock": self.clock, **options}
        self.delivery = self.new_delivery()

    def new_delivery(self) -> TableDelivery:
        """Return what a new process would deliver with."""
        return TableDelivery(
            self.directory,
            self.table,  # type: ignore[arg-type]
            self.options["clock"],
            senders=4,
            start_thread=self.options["start_thread"],
            chance=lambda: 0.5,
        )

    def spool(self, count: int, *, first: int = 0, seal: bool = True) -> SpoolWriter:
        writer = SpoolWriter(self.directory, 1 << 22)
        for number in range(first, first + count):
            writer.append(encode(make_metric(request_id=f"{number:05d}")))
        if seal:
            writer.seal()
        return writer

    def run(self, seconds: float = 1000.0, **options: Any) -> DeliveryReport:
        return self.delivery.run(self.options["clock"].monotonic() + seconds, **options)

    def run_out(self) -> None:
        """Deliver, through whatever is in the way."""
        for _ in range(200):
            try:
                if self.run().finished:
                    return
            except StoreError:
                self.clock.advance(61.0)
        raise AssertionError(f"it does not come to an end: {self.delivery.dispatcher!r}")


def names(count: int, first: int = 0) -> list[str]:
    return [f"{number:05d}" for number in range(first, first + count)]
