"""A spool, an embedded store, and the delivery between them."""

from __future__ import annotations

from pathlib import Path

from receipt_dynamo import UsageQuery
from receipt_dynamo.delivery import Delivery, DeliveryReport
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import FakeClock, encode, make_metric


class Bench:
    """A spool directory, a store and a drainer between them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "spool"
        self.store = SqliteStore(directory / "usage.db")
        self.clock = FakeClock()
        self.delivery = Delivery(self.directory, self.store, self.clock)

    def spool(self, *ids: str, seal: bool = True) -> SpoolWriter:
        writer = SpoolWriter(self.directory, 1 << 22)
        for request_id in ids:
            writer.append(encode(make_metric(request_id=request_id)))
        if seal:
            writer.seal()
        return writer

    def run(self) -> DeliveryReport:
        return self.delivery.run(float("inf"))

    @property
    def stored(self) -> list[str]:
        return [metric.request_id for metric in self.store.query(UsageQuery())]
