"""Progress of long work, on standard error, where a terminal looks on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from receipt_label.cli.output import clean

if TYPE_CHECKING:
    from receipt_dynamo import UsageClient

__all__ = ["bytes_bar", "records_bar", "take_in", "take_in_for_report"]

_PATIENCE_SECONDS, _REPORT_PATIENCE_SECONDS = 60.0, 5.0  # for a store that others use
_LONG_BACKLOG = 20_000  # records: about a second


@contextmanager
def bytes_bar(name: str, size: int | None) -> Iterator[Callable[[int], None] | None]:
    """Show how far a file was read; yield what to tell the position in bytes, or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task(clean(Path(name).name), total=size)
        yield lambda position: progress.update(task, completed=position)


@contextmanager
def records_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many records are done, of ``total`` where it is known; yield what to tell more."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    bar = BarColumn() if total is not None else SpinnerColumn()
    progress = Progress(
        TextColumn(what), bar, MofNCompleteColumn(), console=Console(stderr=True), transient=True
    )
    with progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


def take_in(client: UsageClient, *, patience: float = _PATIENCE_SECONDS) -> None:
    """Bring what the spool holds into the store; a long backlog shows a bar. Raises StoreError."""
    backlog = client.pending() if sys.stderr.isatty() else 0
    if backlog < _LONG_BACKLOG:
        client.take_in(patience=patience)
        return
    with records_bar("taking in the spool", backlog) as tell:
        client.take_in(tell, patience=patience)


def take_in_for_report(client: UsageClient) -> None:
    """Bring what the spool holds into the store, as far as it can be; see ``take_in``.

    What the store refuses, the client reads from the spool when it is asked, and says so. Raises
    StoreVersionError.
    """
    from receipt_dynamo import StoreError, StoreVersionError

    try:
        take_in(client, patience=_REPORT_PATIENCE_SECONDS)
    except StoreVersionError:
        raise
    except StoreError:
        pass
