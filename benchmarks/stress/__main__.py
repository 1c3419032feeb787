"""``python -m benchmarks.stress``: Ctrl-C is answered before the harness is loaded.

Until then nothing is started and nothing is to be tidied up: the process ends at once, with one
line. command.py is what it runs; there an interrupt ends in order whatever was started.
"""

from __future__ import annotations

import signal
import sys

from receipt_label.cli.script import leave

__all__: list[str] = []


def main() -> int:
    """Load the harness, and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    # receipt-usage stress keeps the signal back while Python itself starts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from benchmarks.stress.command import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
