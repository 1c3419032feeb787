"""docs/pitfalls.md: each of the reported troubles is there, and so is each test that it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TROUBLES = 51
ALSO = 8
ROW = re.compile(r"^\| (?!\||-)(?P<number>[^|]+) \| (?P<elsewhere>[^|]+) \| (?P<here>[^|]+) \| ")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    """Return the rows of all tables of the page, without their headings."""
    lines = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| | ")]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the functions in a file, by its syntax: nothing is run."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def test_every_trouble_has_a_row_of_its_own() -> None:
    """All numbers in order, each once, and the others by name: no cell is empty."""
    found = [ROW.match(row) for row in rows()]
    assert all(found), [row for row, match in zip(rows(), found, strict=True) if not match]
    names = [match["number"] for match in found if match]
    assert names[:TROUBLES] == [str(number) for number in range(1, TROUBLES + 1)]
    assert len(names) == len(set(names)) == TROUBLES + ALSO
    assert all(
        re.search(r"[\w-]+/[\w.-]+ ?(PR)?#\d+", match["elsewhere"]) for match in found if match
    )


def test_every_test_that_is_named_is_there() -> None:
    """Each row names at least one, by file and name, in a form that pytest takes."""
    for row in rows():
        named = TEST.findall(row)
        assert named, row
        assert len(named) == row.count("::"), row
        for path, name in named:
            assert name.startswith("test_"), row
            assert name in names_in(path), f"{path} has no {name}"


def test_every_test_of_the_folder_is_named() -> None:
    """What was written for a trouble stands beside it."""
    named = {pair for row in rows() for pair in TEST.findall(row)}
    for file in sorted((ROOT / "tests" / "pitfalls").glob("test_*.py")):
        path = file.relative_to(ROOT).as_posix()
        for name in names_in(path):
            assert not name.startswith("test_") or (path, name) in named, f"{path}::{name}"
