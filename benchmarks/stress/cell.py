"""One contender through one profile: engine, proxy, pipeline, and what became of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from benchmarks.chaos.log import Request, read_log, unknown_ids
from benchmarks.chaos.running import RunningProxy, chaos_proxy
from benchmarks.stress.contenders import CONTENDERS
from benchmarks.stress.crew import Crew, CrewError, spread
from benchmarks.stress.engines import Engine, EngineError, credentials
from benchmarks.stress.environment import clean_environment
from benchmarks.stress.interruption import InterruptionError, going_on
from benchmarks.stress.ledger import Entry, read_ledger
from benchmarks.stress.measures import Evidence
from benchmarks.stress.places import temporary_place
from benchmarks.stress.profiles import Profile
from benchmarks.stress.records import partitions_of
from benchmarks.stress.shipper import Shipper
from benchmarks.stress.truth import Truth, compare
from benchmarks.stress.workload import Work, ledger_path

__all__ = ["Cell", "run_group"]

_START_SECONDS = 0.2
"""From time zero of the proxy to the pipeline's first call: by then all processes have heard."""

_END_SECONDS = 60.0
"""For how long an interrupted run waits for a cell: one whose thread never began sets no event."""

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
    stop: Event | None = None,
) -> list[Cell]:
    """Run contenders at the same time, each with a table and a proxy of its own.

    When ``stop`` is set, or this is interrupted, all end in order, and soon.
    """
    cells: dict[str, Cell] = {}
    stop = stop or Event()

    ended = {name: Event() for name in contenders}

    def run(name: str) -> None:
        try:
            cells[name] = _run_cell(profile, name, engine, seed, watch, stop)
        except InterruptionError:
            cells[name] = _failed(profile, name, "interrupted")
        except (CrewError, EngineError, OSError) as error:
            cells[name] = _failed(profile, name, f"{error}")
        except Exception as error:
            cells[name] = _failed(profile, name, f"{type(error).__name__}: {error}")
        finally:
            ended[name].set()

    # Events, not Thread.join: one that a signal interrupts takes a running thread for ended.
    begun: list[str] = []
    try:
        for name in contenders:
            begun.append(name)
            Thread(target=run, args=(name,)).start()
        for name in contenders:
            ended[name].wait()
    except BaseException:
        stop.set()
        for name in begun:
            ended[name].wait(_END_SECONDS)
        raise
    return [cells[name] for name in contenders]


def _failed(profile: Profile, name: str, why: str) -> Cell:
    return Cell(profile=profile, contender=name, evidence=None, faults_met={}, problems=[why])


def _run_cell(
    profile: Profile, name: str, engine: Engine, seed: int, watch: Watch | None, stop: Event
) -> Cell:
    key, table = f"stress {profile.name} {name}", f"usage-{profile.name}-{name}"
    with temporary_place() as directory, ExitStack() as stack:
        environment = {**clean_environment(directory / "home"), **credentials(key)}
        engine.create_table(table, key)
        stack.callback(engine.drop_table, table, key)
        log = directory / "requests.log"
        proxy = stack.enter_context(
            chaos_proxy(engine.url, profile.schedule, seed=seed, log=log, environment=environment)
        )
        work = _work(profile, name, table, proxy.endpoint, directory)
        works = spread(work, profile.kind == "processes")
        crew = stack.enter_context(Crew(works, environment, directory, stop))
        crew.wait_until_ready()
        begin = proxy.begin()
        end = begin + profile.seconds
        crew.go(begin + _START_SECONDS, end)
        if watch is not None:
            _watched(watch, crew, proxy, end, stop)
        said = []
        if profile.kill_every is not None:
            with Shipper(work, environment, directory) as shipper:
                said = _kill(profile.kill_every, crew, shipper, end, seed, stop)
        calls, ended = crew.wait_until_worked()
        told = crew.finish()
        said += crew.errors()
        crew.end()  # before the proxy: then what it logs is all that there is in the engine
        counts = proxy.stop()
        requests = list(read_log(log))
        entries = _entries(work, directory)
        truth = _truth(
            name, going_on(stop, engine.items(table, key, _partitions(entries))), entries, requests
        )
        noted = sum(map(len, entries.values()))
        problems = [*truth.problems]
        if CONTENDERS[name].ours:
            problems += said
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


def _entries(work: Work, directory: Path) -> dict[int, list[Entry]]:
    """Return what each worker noted of its calls."""
    return {worker: list(read_ledger(ledger_path(directory, worker))) for worker in work.workers}


def _partitions(entries: dict[int, list[Entry]]) -> list[str]:
    """Return where the records of all calls must lie; one more may have been made than noted."""
    return partitions_of(
        1 + max((calls[-1].number for calls in entries.values() if calls), default=0)
    )


def _truth(
    name: str,
    items: Iterator[dict[str, Any]],
    entries: dict[int, list[Entry]],
    requests: Sequence[Request],
) -> Truth:
    """Hold what is in the table against the ledgers and against the proxy's log."""
    if name == "nothing":
        return Truth(stored=frozenset(), lost=[], duplicated=0)
    applied = {
        request_id
        for request in requests
        if request.applied
        for request_id in set(request.ids) - set(request.left)
    }
    return compare(items, entries, applied, unknown_ids(requests))


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


def _kill(
    every: float, crew: Crew, shipper: Shipper, end: float, seed: int, stop: Event
) -> list[str]:
    """Kill a worker or the drainer beside them, until shortly before the end.

    Returns what is wrong with the drainer. Raises CrewError where one ended by itself.
    """
    chance = random.Random(seed)  # noqa: S311 - who dies next is no secret
    while time.monotonic() + 2 * every < end:
        if stop.wait(every):
            raise InterruptionError
        if chance.random() < 0.3:
            shipper.replace()
            crew.shipper_kills += 1
        else:
            crew.kill_one(chance)
    shipper.end()
    return shipper.errors() if shipper.lives else ["no drainer beside the pipeline came to ship"]


def _watched(watch: Watch, crew: Crew, proxy: RunningProxy, end: float, stop: Event) -> None:
    ended = Event()
    watcher = Thread(target=watch, args=(crew, proxy, ended.is_set))
    watcher.start()
    stop.wait(max(0.0, end - time.monotonic()))
    ended.set()
    watcher.join()
