"""A process that ends with the one that started it, even where that one was killed.

    python -m benchmarks.stress.parent PID MODULE ARGUMENTS...

runs ``python -m MODULE ARGUMENTS...`` for as long as the process PID is its parent.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time

__all__ = ["end_with_parent", "watched"]

_LOOK_SECONDS = 0.5


def end_with_parent(parent: int | None = None) -> None:
    """End this process, at once and without a word, soon after its parent has ended.

    ``parent`` is who that should be: one that has ended before this is called is noticed too.
    None: whoever it is now. Starts a thread, so call it after what needs a process of one thread.
    """
    expected = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(expected,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def watched(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module for as long as this process lives."""
    own = "benchmarks.stress.parent"
    return [sys.executable, "-m", own, str(os.getpid()), module, *arguments]


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
