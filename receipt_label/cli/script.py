"""What the installed ``receipt-usage`` calls: Ctrl-C is answered before anything else is loaded.

While modules load there is nothing to tidy up, and neither is when all is done: the process ends at
once there. In between a command is interrupted as any Python is, and closes what it has opened.
Where Python itself would swallow the interrupt (in a finaliser, in a callback of its imports), the
process ends at once as well: what was recorded is safe in the spool, however that happens.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["leave", "main"]

_EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the command line; return the exit code. Interrupted, it says so on one line: 130.

    Where SIGINT is ignored (``nohup``, a job in the background) it stays ignored.
    """
    try:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return _run()
        sys.unraisablehook = _leave_where_swallowed
        signal.signal(signal.SIGINT, leave)
        import receipt_label.cli.main  # noqa: F401 - takes most of the time until a command begins

        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _run()
        signal.signal(signal.SIGINT, leave)
    except KeyboardInterrupt:  # on the way in or out
        leave()
    return code


def _run() -> int:
    from receipt_label.cli.main import main as run

    return run()


def leave(_signal: int = signal.SIGINT, _frame: FrameType | None = None) -> NoReturn:
    """End the process at once: a handler of SIGINT for when there is nothing to tidy up."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(_EXIT_INTERRUPTED)


def _leave_where_swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        leave()
    sys.__unraisablehook__(unraisable)
