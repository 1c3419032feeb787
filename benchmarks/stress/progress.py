"""How far a run is, on standard error: a bar in a terminal, else a line for what has ended."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from benchmarks.stress.profiles import Profile

__all__ = ["Progress", "showing_progress"]


class Progress:
    """Moves a bar by the seconds that a group of contenders takes; without one, says what is done.

    ``total`` is how many seconds of schedules there are.
    """

    def __init__(self, total: float, bar: Any = None, task: Any = None) -> None:
        self._total = total
        self._bar, self._task = bar, task
        self._done = 0.0

    @contextmanager
    def doing(self, profile: Profile, contenders: Sequence[str]) -> Iterator[None]:
        """Show what is running; the bar moves on its own. A line says what has ended."""
        if self._bar is None:
            yield
            self._done += profile.seconds
            share = self._done / self._total
            _say(f"{profile.name}: {', '.join(contenders)} done; {share:.0%} of the whole run")
            return
        ended = threading.Event()
        text = f"{profile.name}: {', '.join(contenders)}"

        def move() -> None:
            for second in range(int(profile.seconds) + 1):
                self._bar.update(self._task, completed=self._done + second, description=text)
                if ended.wait(1.0):
                    return

        mover = threading.Thread(target=move, daemon=True)
        mover.start()
        try:
            yield
        finally:
            ended.set()
            mover.join()
            self._done += profile.seconds
            self._bar.update(self._task, completed=self._done)


@contextmanager
def showing_progress(seconds: float) -> Iterator[Progress]:
    """Show a bar of ``seconds`` for as long as the run takes; a file gets a line now and then."""
    if not sys.stderr.isatty():
        yield Progress(seconds)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(seconds, bar, bar.add_task("", total=seconds))


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # a pipe that nobody reads any more
        print(text, file=sys.stderr, flush=True)
