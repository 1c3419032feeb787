"""Opening what the commands work on: the settings of this environment, and its client."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from receipt_dynamo import Settings, open_usage_client, waiting_elsewhere, way_to
from receipt_label.cli.output import note

if TYPE_CHECKING:
    from receipt_dynamo import UsageClient

__all__ = ["note_other_destinations", "open_client", "read_settings"]


def read_settings() -> Settings:
    """Return the settings of this environment; a warning becomes a line. Raises ConfigurationError.

    A command delivers in its own thread, when it wants to: no background thread is started.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = Settings.from_env(drain="external")
    for warning in caught:
        note(f"warning: {warning.message}")
    return settings


def open_client() -> UsageClient:
    """Return the client of this environment. Raises UsageError in one clear line."""
    return open_usage_client(read_settings())


def note_other_destinations(settings: Settings) -> None:
    """Name every other destination whose records wait in a spool, and who delivers them."""
    for destination, count in waiting_elsewhere(settings).items():
        note(f"{count:,} records wait for {destination}, not shown here: {way_to(destination)}")
