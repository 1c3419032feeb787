"""Serve an engine through the faults of a schedule, in a process of its own.

    python -m benchmarks.chaos http://127.0.0.1:8000 --schedule flaky --seed 7 --log chaos.jsonl

The first line it prints is its address. Lines on standard input tell it what to do, and it answers
each with a line of JSON: ``begin`` sets time zero, ``{"schedule": {...}}`` replaces the schedule.
At the end of input it ends, and prints its counts by operation and fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.chaos.log import RequestLog
from benchmarks.chaos.proxy import ChaosProxy
from benchmarks.chaos.schedule import Schedule, load

__all__: list[str] = []

_LOOK_SECONDS = 1.0


def _told(proxy: ChaosProxy, line: bytes) -> dict[str, Any]:
    """Do what a line says; return the answer."""
    if line.strip() == b"begin":
        return {"began": proxy.begin()}
    try:
        told = json.loads(line)
        schedule = Schedule.from_json(told.get("schedule") if isinstance(told, dict) else None)
    except ValueError as error:
        return {"error": str(error)}
    proxy.replace(schedule)
    return {"schedule": schedule.name}


async def _obey(proxy: ChaosProxy) -> None:
    """Do what standard input says, until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 25)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while (line := await reader.readline()).endswith(b"\n"):
        print(json.dumps(_told(proxy, line)), flush=True)


async def _watch(log: RequestLog) -> None:
    """Write what was logged once a second; return when the parent is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(_LOOK_SECONDS)
        log.flush()


async def _serve(engine: str, schedule: Schedule, seed: int, path: Path | None) -> None:
    log = RequestLog(path)
    proxy = ChaosProxy(engine, schedule, seed=seed, log=log)
    print(await proxy.start(), flush=True)
    ends = [asyncio.create_task(_obey(proxy)), asyncio.create_task(_watch(log))]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    print(json.dumps(await proxy.stop()), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Serve until the input ends; 2 for a schedule or an engine that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("engine", help="the address of a DynamoDB engine")
    parser.add_argument("--schedule", default="healthy", help="a name, or a file of JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    told = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(told.engine, load(told.schedule), told.seed, told.log))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
