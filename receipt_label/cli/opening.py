"""Opening what the commands work on: the settings of this environment, and its client."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from receipt_dynamo import (
    Settings,
    UsageError,
    open_usage_client,
    place_of,
    waiting_elsewhere,
    way_to,
)
from receipt_label.cli.output import called, counted, note

if TYPE_CHECKING:
    from receipt_dynamo import UsageClient

__all__ = ["note_dead_letters", "note_other_destinations", "open_client", "read_settings"]


def read_settings(drain: str | None = "manual") -> Settings:
    """Return the settings of this environment; a warning becomes a line. Raises ConfigurationError.

    A command delivers in its own thread, when it wants to: no background thread is started, unless
    ``drain`` is None and the environment says so.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flush = 0.0 if drain else None  # a command closes its client; nothing is left to flush
        settings = Settings.from_env(drain=drain, exit_flush_seconds=flush)
    for warning in caught:
        note(f"warning: {warning.message}")
    return settings


@contextmanager
def open_client(settings: Settings | None = None) -> Iterator[UsageClient]:
    """Open the client of this environment, or of ``settings``, and close it behind the command.

    Where the store has failed the client is left as it is: closing would try the store again, and
    say the same a second time. What was recorded is safe in the spool. Raises UsageError.
    """
    client = open_usage_client(settings or read_settings())
    try:
        yield client
    except UsageError:
        raise
    except BaseException:
        client.close()
        raise
    if client.store_refusal is None or client.has_recorded():
        client.close()


def note_other_destinations(settings: Settings, what: str = "not shown here") -> None:
    """Name every other destination whose records wait in a spool, and who delivers them."""
    for destination, count in waiting_elsewhere(settings).items():
        records = counted(count, "record")
        place = place_of(destination)
        note(f"{what}: {records} waiting for {place}. To deliver: {way_to(destination)}")


def note_dead_letters(settings: Settings) -> None:
    """Say how many records the store would not take: they are in no figure."""
    from receipt_dynamo import DeadLetters

    try:
        count = len(DeadLetters(settings).letters())
    except UsageError as error:
        note(f"warning: {error}")
        return
    if count:
        note(f"not shown here: {counted(count, 'dead letter')}. See: {called('dead list')}")
