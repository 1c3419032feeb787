"""``receipt-usage ship``: bring what waits in the spool into the store, once or for as long as it
runs; or what the embedded store holds into a table."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Self

import click

from receipt_label.cli.output import counted, note, write_json
from receipt_label.cli.progress import records_bar

if TYPE_CHECKING:
    from receipt_dynamo import Settings, UsageClient

__all__ = ["command"]

_BUSY_SECONDS = 0.1  # between two rounds while records arrive
_IDLE_SECONDS = 1.0
_SUMMARY_SECONDS = 60.0


@click.command(name="ship")
@click.option("--follow", is_flag=True, help="Go on shipping what arrives, until interrupted.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up when nothing was delivered for this long.",
)
@click.option("--to-table", metavar="NAME", help="Bring the embedded store into this table.")
@click.option("--from", "source", metavar="DESTINATION", help="Deliver another's spool to here.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def command(
    follow: bool, timeout: float, to_table: str | None, source: str | None, as_json: bool
) -> int:
    """Deliver what waits in the spool of this environment.

    Pipelines with RECEIPT_USAGE_DRAIN=external only write their spool: this command delivers it.
    One process delivers a spool at a time; where another one does, this one watches it, and takes
    over when it dies. Without --follow: ends when what waited at the start is delivered; exit code
    1 if it could not be. With --follow: ends with SIGINT or SIGTERM, exit code 0.

    With --to-table, what was recorded without a table is brought into one, in the region
    AWS_REGION: first what waits in the local spool, then the embedded store, which keeps its
    records. Interrupted, it goes on where it was; twice, it changes nothing. Exit code 1 when the
    table refuses a record.

    With --from, what waits for another destination is delivered to this one: records that were
    spooled under a name or a region that was wrong. health and doctor name what waits.
    """
    if to_table is not None:
        if follow or source is not None:
            other = "--follow" if follow else "--from"
            raise click.UsageError(f"--to-table and {other} exclude each other")
        from receipt_label.cli.to_table import ship_to_table

        return ship_to_table(to_table, as_json=as_json)
    from receipt_label.cli.opening import note_other_destinations, open_client, read_settings

    settings = read_settings()
    if source is not None:
        settings = _delivering(source, settings)
    with open_client(settings) as client, _StopRequest() as stop:
        shipper = _Shipper(client, stop)
        finished = shipper.follow() if follow else shipper.ship_backlog(timeout)
        left = client.pending()
        shipper.say_end(left, finished=finished)
        if as_json:
            write_json(
                {
                    "destination": replace(settings, other_spool=None).destination,
                    **({} if source is None else {"from": source}),
                    "delivered": shipper.delivered,
                    "dead": client.health().dead,
                    "pending": left,
                }
            )
    note_other_destinations(settings, "not delivered here")
    return 0 if finished else 1


def _delivering(source: str, settings: Settings) -> Settings:
    """Return the settings that deliver what waits for ``source``."""
    from receipt_dynamo import waiting_elsewhere

    waiting = waiting_elsewhere(settings)
    if source not in waiting:
        names = ", ".join(waiting) or "nothing, for no other destination"
        raise click.UsageError(f"--from {source!r}: nothing waits for it. What waits: {names}")
    return replace(settings, other_spool=source)


class _Shipper:
    """Rounds of delivery, and what is said about them."""

    def __init__(self, client: UsageClient, stop: _StopRequest) -> None:
        self._client = client
        self._stop = stop
        self._said: str | None = None
        self.delivered = 0

    def ship_backlog(self, timeout: float) -> bool:
        """Deliver what waits now; return whether all of it was, by whichever process."""
        client = self._client
        count_left = client.backlog()
        left = count_left()
        last_progress = time.monotonic()
        with records_bar("shipping", left) as tell:
            while left and not self._stop.requested:
                self._round(tell)
                before, left = left, count_left()
                if left < before:
                    last_progress = time.monotonic()
                elif time.monotonic() - last_progress >= timeout:
                    break
                else:
                    self._say_why()
                    time.sleep(_BUSY_SECONDS)
        return not left

    def follow(self) -> bool:
        """Deliver what arrives until told to stop."""
        note(f"shipping for {self._client.settings.destination} until interrupted")
        said_at, said = time.monotonic(), 0
        with records_bar("shipped", None) as tell:
            while not self._stop.requested:
                found = self._round(tell)
                self._say_why()
                if time.monotonic() - said_at >= _SUMMARY_SECONDS and self.delivered > said:
                    said_at, said = time.monotonic(), self.delivered
                    note(f"{counted(self.delivered, 'record')} delivered so far")
                time.sleep(_BUSY_SECONDS if found else _IDLE_SECONDS)
        return True

    def _round(self, tell: Callable[[int], None]) -> int:
        found = self._client.ship(tell)
        self.delivered += found
        return found

    def _say_why(self) -> None:
        """Say that another process delivers; again only after it was this one."""
        leader = self._client.leader()
        if leader is None or self._client.leads:
            self._said = None
            return
        other = f"process {leader.pid} on {leader.host}"
        if other != self._said:
            age = leader.age(datetime.now(UTC))
            note(f"{other} delivers this spool (last sign {age:.0f} s ago); watching")
        self._said = other

    def say_end(self, left: int, *, finished: bool) -> None:
        """Say what was done; after a finished backlog only what came later can be left."""
        wait = "none waits"
        if left:
            verb = "waits" if left == 1 else "wait"
            kind = "newer record" if finished else "record"
            wait = f"{counted(left, kind)} {verb if finished else f'still {verb}'}"
        note(f"{counted(self.delivered, 'record')} delivered; {wait}")


class _StopRequest:
    """Whether SIGINT or SIGTERM came: the round that runs is finished first.

    No Event: a handler that sets one may find that its own thread holds its lock.
    """

    requested = False

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
