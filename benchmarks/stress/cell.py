"""One contender through one profile: engine, proxy, pipeline, and what became of it."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.log import read_log, unknown_ids
from benchmarks.chaos.running import RunningProxy, chaos_proxy
from benchmarks.stress.contenders import CONTENDERS
from benchmarks.stress.crew import Crew, CrewError, Shipper, spread
from benchmarks.stress.engines import Engine, EngineError, credentials
from benchmarks.stress.ledger import read_ledger
from benchmarks.stress.measures import Evidence
from benchmarks.stress.profiles import Profile
from benchmarks.stress.truth import Truth, compare
from benchmarks.stress.workload import Work, ledger_path

__all__ = ["Cell", "run_group"]

_START_SECONDS = 0.2
"""From time zero of the proxy to the pipeline's first call: by then all processes have heard."""

Watch = Callable[[Crew, RunningProxy, Callable[[], bool]], None]
"""Looks at a run from outside, until it is told that the pipeline has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A contender's run. ``evidence`` is None where it failed: ``problems`` say why."""

    profile: Profile
    contender: str
    evidence: Evidence | None
    faults_met: dict[str, int]
    problems: Sequence[str]


def run_group(
    profile: Profile,
    contenders: Sequence[str],
    engine: Engine,
    *,
    seed: int,
    watch: Watch | None = None,
) -> list[Cell]:
    """Run contenders at the same time, each with a table and a proxy of its own."""
    cells: dict[str, Cell] = {}

    def run(name: str) -> None:
        try:
            cells[name] = _run_cell(profile, name, engine, seed, watch)
        except (CrewError, EngineError, OSError) as error:
            cells[name] = _failed(profile, name, f"{error}")
        except Exception as error:
            cells[name] = _failed(profile, name, f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(name,)) for name in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [cells[name] for name in contenders]


def _failed(profile: Profile, name: str, why: str) -> Cell:
    return Cell(profile=profile, contender=name, evidence=None, faults_met={}, problems=[why])


def _run_cell(profile: Profile, name: str, engine: Engine, seed: int, watch: Watch | None) -> Cell:
    key, table = f"stress {profile.name} {name}", f"usage-{profile.name}-{name}"
    with tempfile.TemporaryDirectory(prefix="receipt-usage-stress-") as place, ExitStack() as stack:
        directory = Path(place)
        engine.create_table(table, key)
        stack.callback(engine.drop_table, table, key)
        log = directory / "requests.log"
        proxy = stack.enter_context(chaos_proxy(engine.url, profile.schedule, seed=seed, log=log))
        work = _work(profile, name, table, proxy.endpoint, directory)
        works = spread(work, profile.kind == "processes")
        environment = credentials(key)
        crew = stack.enter_context(Crew(works, environment, directory))
        crew.wait_until_ready()
        begin = proxy.begin()
        end = begin + profile.seconds
        crew.go(begin + _START_SECONDS, end)
        if watch is not None:
            _watched(watch, crew, proxy, end)
        if profile.kill_every is not None:
            _kill(profile.kill_every, crew, Shipper(work, environment), end, seed)
        calls, ended = crew.wait_until_worked()
        told = crew.finish()
        counts = proxy.stop()
        requests = list(read_log(log))
        entries = {
            worker: list(read_ledger(ledger_path(directory, worker))) for worker in work.workers
        }
        applied = {
            request_id
            for request in requests
            if request.applied
            for request_id in set(request.ids) - set(request.left)
        }
        if name == "nothing":
            truth = Truth(stored=frozenset(), lost=[], duplicated=0)
        else:
            truth = compare(engine.items(table, key), entries, applied, unknown_ids(requests))
        noted = sum(map(len, entries.values()))
        problems = [*truth.problems]
        if not crew.kills and noted != calls:
            problems.append(f"workers made {calls:,} calls, and {noted:,} are in their ledgers")
    evidence = Evidence(
        profile=profile,
        entries=entries,
        log=requests,
        truth=truth,
        begin=begin,
        start=begin + _START_SECONDS,
        end=max(end, ended),
        told=told,
        kills=crew.kills,
    )
    return Cell(
        profile=profile,
        contender=name,
        evidence=evidence,
        faults_met=counts,
        problems=problems,
    )


def _work(profile: Profile, name: str, table: str, endpoint: str, directory: Path) -> Work:
    ours = CONTENDERS[name].ours
    return Work(
        contender=name,
        endpoint=endpoint,
        table=table,
        directory=str(directory / "usage"),
        ledgers=str(directory),
        workers=tuple(range(profile.workers)),
        kind=profile.kind,
        rate=profile.rate,
        finish_seconds=profile.finish_seconds,
        disk_bytes=profile.disk_bytes if ours else None,
        disk_full=profile.disk_full if ours else (),
    )


def _kill(every: float, crew: Crew, shipper: Shipper, end: float, seed: int) -> None:
    """Kill a worker or the drainer beside them, until shortly before the end."""
    chance = random.Random(seed)  # noqa: S311 - who dies next is no secret
    try:
        while time.monotonic() + 2 * every < end:
            time.sleep(every)
            if chance.random() < 0.3:
                shipper.kill()
                crew.kills += 1
            else:
                crew.kill_one(chance)
    finally:
        shipper.end()


def _watched(watch: Watch, crew: Crew, proxy: RunningProxy, end: float) -> None:
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(crew, proxy, ended.is_set))
    watcher.start()
    time.sleep(max(0.0, end - time.monotonic()))
    ended.set()
    watcher.join()
