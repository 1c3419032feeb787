"""From local to cloud: what an embedded store holds, brought into a DynamoDB table.

Nothing is taken away: the embedded store keeps its records. A bookmark beside it says how far it
was read for this table, so that the next run begins there. It is written behind what the table has
acknowledged; where it is lost, or speaks of another store or table, everything is sent again, and
replaces itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.errors import ConfigurationError, StoreError
from receipt_dynamo.files import create_private_file
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.payload import encode_payload
from receipt_dynamo.settings import Settings
from receipt_dynamo.sqlite_source import SqliteSource, StoredRow
from receipt_dynamo.store import Batch, StoredRecord
from receipt_dynamo.table import BATCH_ITEMS

__all__ = ["Migration", "MigrationReport", "RefusedMetric"]

Progress = Callable[[int], None]

_BEGINNING = -(2**63)  # before every number that SQLite gives
_PAGE_ROWS = 500  # 400 KB each at the most: what lies in memory stays bounded
_MOST_REFUSED = 1000
_WRITE_FLAGS = os.O_WRONLY | os.O_TRUNC
_log = safe_logger("receipt_dynamo.migration")


@dataclass(frozen=True, slots=True)
class RefusedMetric:
    """A metric that the table will never take, and DynamoDB's reason."""

    metric: AIUsageMetric
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """What one run did. ``shipped`` metrics and ``gaps`` are in the table now, by this run.

    ``before`` metrics were by an earlier one. What was ``refused`` is tried again in the next run.
    """

    shipped: int
    gaps: int
    before: int
    refused: Sequence[RefusedMetric]


class _Bookmark(msgspec.Struct, frozen=True, kw_only=True):
    """How far a store was read for a table: all rows up to ``row`` are there, but the refused.

    ``record`` is a checksum of that row: where it is another one, or gone, so may be those before.
    ``gaps`` is one of the losses that were sent.
    """

    table: str = ""
    file: int = 0
    row: int = _BEGINNING
    record: str = ""
    refused: tuple[int, ...] = ()
    gaps: str = ""


_decode = msgspec.json.Decoder(_Bookmark).decode
_encode = msgspec.json.Encoder().encode


class Migration:
    """Brings the embedded store of ``settings`` into the table that they name. One thread uses it.

    ``client`` is that table's; ``senders`` requests run at a time. What waits in the spool is not
    seen: deliver it first. Several may run at once, and together they do the same.
    """

    def __init__(self, settings: Settings, client: DynamoClient, *, senders: int = 4) -> None:
        if senders < 1:
            raise ConfigurationError(f"senders={senders} is too small: at least 1")
        if settings.table_name is None:
            raise ConfigurationError("no table is named to bring the embedded store into")
        path = settings.store_path
        self._source = SqliteSource(path)
        self._client = client
        self._senders = senders
        self._path = path.with_name(f"{path.name}.to-{settings.destination}")
        self._mark = _Bookmark()
        self._refused: dict[int, RefusedMetric] = {}

    def waiting(self) -> int:
        """Return how many metrics the table does not have yet. Raises StoreError."""
        self._open()
        refused = self._source.rows_at(self._mark.refused)
        return self._source.count_after(self._mark.row) + len(refused)

    def run(self, progress: Progress | None = None) -> MigrationReport:
        """Send what the table does not have yet. Raises StoreError; what is done stays done.

        ``progress`` is told of every few records that were settled, from this thread. What is
        stored meanwhile is sent as well.
        """
        tell = progress or (lambda _count: None)
        self._open()
        self._refused = {}
        refused_before = self._source.rows_at(self._mark.refused)
        before = self._source.count_after(_BEGINNING) - self._source.count_after(self._mark.row)
        with self._pool() as pool:
            shipped = self._send(pool, refused_before, tell)
            if self._mark.refused:
                self._keep(refused=tuple(sorted(self._refused)))
            while rows := self._next_rows():
                shipped += self._send(pool, rows, tell)
                self._keep(
                    row=rows[-1].number,
                    record=_checksum(rows[-1]),
                    refused=tuple(sorted(self._refused)),
                )
        return MigrationReport(
            shipped=shipped,
            gaps=self._send_gaps(),
            before=max(0, before - len(refused_before)),
            refused=[self._refused[number] for number in sorted(self._refused)],
        )

    def _open(self) -> None:
        """Find out where to begin. Raises StoreError for a table that is not ours."""
        table = self._client.describe_table()
        if table.differences:
            raise StoreError(
                f"the table {table.name} is not as it should be: {'; '.join(table.differences)}. "
                "See: receipt-usage table check"
            )
        fresh = _Bookmark(table=table.identity, file=self._source.file_number())
        kept = self._load()
        is_of_these = (kept.table, kept.file) == (fresh.table, fresh.file)
        self._mark = kept if is_of_these and self._still_holds(kept) else fresh

    def _still_holds(self, mark: _Bookmark) -> bool:
        if mark.row == _BEGINNING:
            return True
        return [_checksum(row) for row in self._source.rows_at([mark.row])] == [mark.record]

    def _next_rows(self) -> list[StoredRow]:
        while True:
            rows = self._source.rows_after(self._mark.row, _PAGE_ROWS)
            file = self._source.file_number()
            if file == self._mark.file:
                return rows
            # Repaired or replaced meanwhile: its rows may have other numbers.
            self._mark = _Bookmark(table=self._mark.table, file=file)
            self._refused = {}

    def _send(self, pool: ThreadPoolExecutor, rows: Sequence[StoredRow], tell: Progress) -> int:
        """Send rows, several requests at a time; return how many the table took."""
        batches = [rows[n : n + BATCH_ITEMS] for n in range(0, len(rows), BATCH_ITEMS)]
        taken = 0
        for batch, refused in zip(batches, pool.map(self._write, batches), strict=True):
            self._refused |= refused
            taken += len(batch) - len(refused)
            tell(len(batch))
        if len(self._refused) > _MOST_REFUSED:
            first = next(iter(self._refused.values()))
            raise StoreError(
                f"the table {self._client.table_name} refuses more than {_MOST_REFUSED} records. "
                f"The first: {first.reason}"
            )
        return taken

    def _write(self, rows: Sequence[StoredRow]) -> dict[int, RefusedMetric]:
        numbers = {row.record.metric.identity: row.number for row in rows}
        outcome = self._client.write(
            Batch(records=[row.record for row in rows], segment="", position=0)
        )
        return {
            numbers[found.record.metric.identity]: RefusedMetric(found.record.metric, found.reason)
            for found in outcome.rejected
            if isinstance(found.record, StoredRecord)
        }

    def _send_gaps(self) -> int:
        """Send what was lost, unless it was sent as it is now: there is little of it."""
        gaps = self._source.gaps()
        digest = _digest(*map(encode_payload, gaps))
        if not gaps or digest == self._mark.gaps:
            return 0
        outcome = self._client.write(Batch(records=(), gaps=gaps, segment="", position=0))
        for found in outcome.rejected:
            _log.warning("the table refuses a record of losses: %s", found.reason)
        self._keep(gaps=digest)
        return len(gaps) - len(outcome.rejected)

    def _load(self) -> _Bookmark:
        try:
            return _decode(self._path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            return _Bookmark()

    def _keep(self, **changes: Any) -> None:
        """Write the bookmark. Where that fails the next run sends more, and no record is lost."""
        self._mark = msgspec.structs.replace(self._mark, **changes)
        partial = self._path.with_name(f"{self._path.name}.partial")
        try:
            with os.fdopen(create_private_file(partial, _WRITE_FLAGS), "wb") as file:
                file.write(_encode(self._mark))
            partial.replace(self._path)
        except OSError as error:
            _log.warning(
                "%s cannot be written (%s): the next run begins where the last one did",
                self._path,
                error,
            )

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(self._senders, thread_name_prefix="receipt-usage-ship")
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _checksum(row: StoredRow) -> str:
    return _digest(row.record.payload)


def _digest(*payloads: bytes) -> str:
    return sha256(b"\n".join(payloads)).hexdigest()
