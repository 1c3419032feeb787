"""The dead letters of a destination, with the store that they are sent to."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from receipt_dynamo import DeadLetters, Settings
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.files import secure_directory
from receipt_dynamo.spool.aside import Aside, letter_id
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import DroppedSummary, UsageQuery
from tests.support import FakeClock, encode, make_metric, payloads_of

COST = Decimal("0.125")


class Bench:
    """The dead letters of a destination, as a drainer buried them."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(usage_dir=directory / "usage")
        self.spool_dir = self.settings.spool_dir
        self.dead_dir = self.spool_dir / "dead"
        self.clock = FakeClock()
        self.letters = DeadLetters(self.settings, self.clock)
        self.store = SqliteStore(self.settings.store_path)
        secure_directory(self.spool_dir)

    def bury(self, *payloads: bytes, segment: str = "1-1-aa.seg") -> list[str]:
        """Bury records; return the ids of their letters."""
        Aside(self.spool_dir, self.clock).bury(segment, [(p, "it is poison") for p in payloads])
        return [letter_id(payload.decode("utf-8", "replace")) for payload in payloads]

    def metric(self, name: str, **changes: Any) -> bytes:
        changes = {"input_tokens": 10, "output_tokens": 5, "cost_usd": COST, **changes}
        return encode(make_metric(request_id=name, **changes))

    def spooled(self) -> list[bytes]:
        return [p for path in list_segments(self.spool_dir) for p in payloads_of(path)]

    def deliver(self) -> list[str]:
        """Deliver what is spooled; return the request ids in the store."""
        assert Delivery(self.spool_dir, self.store, self.clock).run(float("inf")).finished
        return [metric.request_id for metric in self.store.query(UsageQuery())]

    def lost(self, query: UsageQuery | None = None) -> DroppedSummary:
        self.deliver()
        return self.store.dropped(query or UsageQuery())

    @property
    def ids(self) -> list[str]:
        return [letter.id for letter in self.letters.letters()]
