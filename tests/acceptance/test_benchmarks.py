"""The benchmark runs: what nobody runs every day rots. No figure is looked at here."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main, measure
from benchmarks.report import Part, Row, median_of, timings

ROWS = {
    "recording": 8,
    "drainer": 4,
    "contention": 8,
    "contexts": 9,
    "event-loop": 4,
    "background": 3,
    "backlog": 7,
    "wire": 5,
    "wrapping": 15,
    "arrival": 3,
    "durability": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("part", ROWS)
def test_a_part_runs_with_tiny_sizes(part: str) -> None:
    """Every operation of it gives figures, all of them times and counts of 0 or more."""
    parts = measure([part], scale=0.001)
    rows = [row for one in parts for row in one.rows]
    assert len(rows) == ROWS[part]
    assert all(row.figures for row in rows)
    assert all(value >= 0 for row in rows for value in row.figures.values())


@pytest.mark.slow
def test_json_and_tables_show_the_same_part(capsys: pytest.CaptureFixture[str]) -> None:
    """One part alone may be asked for, as tables and as JSON."""
    assert main(["durability", "--scale", "0.001"]) == 0
    tables = capsys.readouterr().out
    assert main(["durability", "--scale", "0.001", "--json", "--repeat", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    (part,) = report["parts"]
    assert len(part["rows"]) == ROWS["durability"]
    assert all(row["name"] in tables for row in part["rows"])
    assert (report["repeat"], report["machine"]["cpus"] > 0) == (2, True)


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """And what could have been asked for."""
    with pytest.raises(SystemExit):
        main(["speed"])
    said = capsys.readouterr().err
    assert "'speed'" in said
    assert "durability" in said


def test_percentiles_are_the_time_that_a_share_of_the_calls_kept_to() -> None:
    """In microseconds, of nanoseconds in any order; a figure of several runs is their median."""
    assert timings([2000, *range(1000, 0, -1)]) == {
        "p50": 0.501,
        "p99": 0.991,
        "p99.9": 1.0,
        "max": 2.0,
    }
    runs = [Part("p", "t", [Row("r", {"p50": value})]) for value in (9.0, 1.0, 2.0)]
    assert median_of(runs).rows[0].figures == {"p50": 2.0}
