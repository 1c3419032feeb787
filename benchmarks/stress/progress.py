"""How far a run is, on standard error, where a terminal looks on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.stress.profiles import Profile

__all__ = ["Progress", "showing_progress"]


class Progress:
    """Moves a bar by the seconds that a group of contenders takes. Without a bar it is silent."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task
        self._done = 0.0

    @contextmanager
    def doing(self, profile: Profile, contenders: Sequence[str]) -> Iterator[None]:
        """Show what is running; the bar moves on its own."""
        if self._bar is None:
            yield
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
    """Show a bar of ``seconds`` for as long as the run takes."""
    if not sys.stderr.isatty():
        yield Progress(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task("", total=seconds))
