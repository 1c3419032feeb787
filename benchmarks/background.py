"""What the background thread costs a process that records a little, all the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.report import Part, Row
from benchmarks.samples import client_of, in_fresh_process, private_directory, ready_metric

__all__ = ["run"]

_SECONDS = 5.0


def _worker(directory: Path, rate: int, drain: str, seconds: float) -> dict[str, float]:
    """Record ``rate`` times a second; return the share of a CPU and the bytes written."""
    client = client_of(directory, drain)
    client.put_ai_usage_metric(ready_metric())
    time.sleep(min(2.0, seconds))  # past the start: the store is made, the first batch is in
    begin, used, written = time.monotonic(), time.process_time(), _written()
    for number in range(max(1, int(rate * seconds))):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        client.put_ai_usage_metric(ready_metric())
    took = time.monotonic() - begin
    figures = {"CPU %": 100 * (time.process_time() - used) / took}
    return figures | ({"KB/s written": (_written() - written) / took / 1024} if written else {})


def _written() -> int:
    """Return the bytes that this process has sent to the disk, 0 where Linux does not count."""
    with suppress(OSError):
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])
    return 0


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Measure a process that records at a steady rate, with and without its drainer."""
    seconds = max(0.2, _SECONDS * scale)
    rows = []
    for name, rate, drain in (
        ("100 records/s, no drainer", 100, "manual"),
        ("10 records/s, drainer running", 10, "thread"),
        ("100 records/s, drainer running", 100, "thread"),
    ):
        say(f"background: {name}")
        with private_directory() as directory:
            figures = in_fresh_process(_worker, directory, rate, drain, seconds)
        rows.append(Row(name, figures, drain == "manual"))
    return [Part("background", f"A process that records for {seconds:g} s, as a whole", rows)]
