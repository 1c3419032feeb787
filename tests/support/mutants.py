"""Broken variants of the code, one or more for each invariant: tests of the tests.

``MUTANT_UNDER_TEST`` names the one to apply; ``tests/conftest.py`` and the scripts that run
in child processes call ``apply``. Each is a mistake that somebody could make. Those of breaker,
queue and dispatcher are in part_mutants.py, and run in one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

VARIABLE = "MUTANT_UNDER_TEST"
MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(function: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[function.__name__] = function
    return function


def apply() -> None:
    """Break the code as the environment says; do nothing where it says nothing."""
    name = os.environ.get(VARIABLE)
    if name:
        MUTANTS[name]()


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(the real one)`` in the place of an attribute."""
    setattr(owner, name, make(getattr(owner, name)))


@mutant
def ack_before_write() -> None:
    """The segment is acked, then written: a store that fails takes the records with it."""
    from receipt_dynamo.delivery import Delivery
    from receipt_dynamo.spool.reader import SegmentReader

    def early(real: Any) -> Any:
        def deliver(self: Any, segment: SegmentReader, offset: int, lines: Any, report: Any) -> Any:
            segment.ack(lines.end)
            return real(self, segment, offset, lines, report)

        return deliver

    replace(Delivery, "_deliver", early)


@mutant
def write_after_ack() -> None:
    """As above, for the kill between the two."""
    ack_before_write()


@mutant
def payload_changes_when_sent_again() -> None:
    """A record is encoded anew for each delivery, with something that differs."""
    import itertools

    from receipt_dynamo import payload as payloads
    from receipt_dynamo.store import StoredRecord

    counter = itertools.count()

    def changed(real: Any) -> Any:
        def parse(payload: bytes) -> Any:
            record = real(payload)
            if isinstance(record, StoredRecord):
                return StoredRecord(record.metric, payload + b" " * next(counter))
            return record

        return parse

    replace(payloads, "parse_payload", changed)


@mutant
def ids_survive_a_fork() -> None:
    """The nonce of minted ids is kept by a child: both count on from the same number."""
    from receipt_dynamo.entities import request_id

    nonce = os.urandom(8).hex()
    counter = iter(range(10**9))
    request_id.mint_request_id = lambda: f"{nonce}-{next(counter)}"
    import receipt_dynamo

    receipt_dynamo.mint_request_id = request_id.mint_request_id  # type: ignore[attr-defined]


@mutant
def put_raises_what_the_disk_says() -> None:
    """An error of the disk goes up to the caller."""
    from receipt_dynamo.spool.spool import Spool

    def raising(_real: Any) -> Any:
        def keep(_self: Any, _payload: bytes, _metric: object, error: Exception) -> Any:
            raise error

        return keep

    replace(Spool, "_keep_in_memory", raising)


@mutant
def put_syncs() -> None:
    """Each append is brought to the disk at once."""
    from receipt_dynamo.spool.writer import SpoolWriter

    def synced(real: Any) -> Any:
        def append(self: Any, payload: bytes, count: int = 1) -> None:
            real(self, payload, count)
            os.fdatasync(self._descriptor)

        return append

    replace(SpoolWriter, "append", synced)


@mutant
def put_lists_the_directory() -> None:
    """The bounds are measured for each append."""
    from receipt_dynamo.spool.writer import SpoolWriter

    def measured(real: Any) -> Any:
        def append(self: Any, payload: bytes, count: int = 1) -> None:
            os.listdir(self._directory)  # noqa: PTH208 - the cheapest look there is
            real(self, payload, count)

        return append

    replace(SpoolWriter, "append", measured)


@mutant
def no_checksum() -> None:
    """Whatever can be parsed is believed, and a line that cannot ends the reading."""
    from receipt_dynamo.spool import segment

    segment.crc32 = lambda _payload: 0  # type: ignore[attr-defined]


@mutant
def torn_lines_are_not_ended() -> None:
    """After a short write the next record is appended to the torn one."""
    from receipt_dynamo.spool import active

    active._LINE_END = b""


@mutant
def drops_are_not_counted() -> None:
    """What memory does not take is gone."""
    from receipt_dynamo.drops import DropTally

    DropTally.add = lambda *_args, **_more: 1  # type: ignore[method-assign]


@mutant
def memory_is_forgotten() -> None:
    """What lies in memory is not written back when there is room."""
    from receipt_dynamo.spool.spool import Spool

    Spool._write_back = lambda self: self.ring.take(10**6) and None  # type: ignore[method-assign]


@mutant
def bounds_are_ignored() -> None:
    """A writer is granted whatever it wants."""
    from receipt_dynamo.spool.bounds import SpoolBounds

    SpoolBounds.grant = lambda _self, *_: 1 << 40  # type: ignore[method-assign]


@mutant
def a_failing_store_kills_records() -> None:
    """What the store refuses to talk about goes to dead/, as if it were at fault itself."""
    from receipt_dynamo.delivery import Delivery
    from receipt_dynamo.errors import StoreError
    from receipt_dynamo.store import Rejection, WriteOutcome

    def giving_up(real: Any) -> Any:
        def init(self: Any, directory: Any, store: Any, clock: Any) -> None:
            real(self, directory, store, clock)
            write = store.write

            def tolerant(batch: Any) -> Any:
                try:
                    return write(batch)
                except StoreError as error:
                    return WriteOutcome(0, [Rejection(r, str(error)) for r in batch.records])

            store.write = tolerant

        return init

    replace(Delivery, "__init__", giving_up)


@mutant
def the_umask_decides() -> None:
    """Files are created as the umask says."""
    from receipt_dynamo import files

    files.create_private_file = lambda path, flags: os.open(  # type: ignore[assignment]
        path, flags | os.O_CREAT | os.O_CLOEXEC, 0o666
    )
    from receipt_dynamo.spool import writer

    writer.create_private_file = files.create_private_file


@mutant
def a_backlog_is_read_at_once() -> None:
    """A segment is read to its end for each batch, and a whole spool into one list."""
    from receipt_dynamo import delivery
    from receipt_dynamo.spool import reader

    delivery.BATCH_RECORDS = 10**9  # type: ignore[misc]
    reader.CHUNK_BYTES = 1 << 30


@mutant
def a_child_keeps_the_locks() -> None:
    """The child of a fork forgets the locks that it inherited, and leaves their files open."""
    from receipt_dynamo.files import FileLock

    FileLock.forget = lambda self: setattr(self, "_descriptor", None)  # type: ignore[method-assign]


@mutant
def a_stopped_leader_leads_for_ever() -> None:
    """Only the kernel's lock counts."""
    from receipt_dynamo.spool.leadership import Heartbeat

    Heartbeat.age = lambda _self, _now: 0.0  # type: ignore[method-assign]


@mutant
def a_report_does_not_take_in() -> None:
    """A report shows what the store has, not what waits."""
    from receipt_dynamo.delivery import DeliveryReport
    from receipt_dynamo.reports import Reports

    Reports.take_in = lambda *_, **__: DeliveryReport()  # type: ignore[method-assign]


@mutant
def unlink_before_write() -> None:
    """A sealed segment is removed first, and delivered from what was read of it."""
    from receipt_dynamo.delivery import Delivery

    def early(real: Any) -> Any:
        def deliver(self: Any, segment: Any, offset: int, lines: Any, report: Any) -> Any:
            if lines.end == segment.size() and segment.is_sealed():
                segment.remove()
            return real(self, segment, offset, lines, report)

        return deliver

    replace(Delivery, "_deliver", early)
