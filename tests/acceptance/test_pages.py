"""README and docs: what a reader copies runs, every link leads somewhere, every file is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from examples.stand_in import StandIn, environment_of
from receipt_label.cli.main import cli
from tests.support.vendor_server import Answer, Asked, reply

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "tests/data/*.md")
    for path in ROOT.glob(pattern)
)
OWN_TESTS = {  # they look at what the examples of these pages leave behind
    "docs/agents.md": "tests/unit/test_agents_page.py",
    "docs/contexts.md": "tests/unit/test_contexts_page.py",
    "docs/parts.md": "tests/unit/test_parts_page.py",
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FOLDERS = "benchmarks docs examples receipt_dynamo receipt_label tests tools".split()
NAMED_FILE = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w/.-]*\w\.[a-z]+)\b")
COMMAND = re.compile(r"^    (?:\S*/)?(?:receipt-usage|tools/demo) ([a-z].*)$", re.MULTILINE)
BATCH = {
    "id": "batch_68f5c0a1d2e3f4a5b6c7d8e9", "object": "batch", "status": "completed",
    "endpoint": "/v1/chat/completions", "input_file_id": "file-in", "output_file_id": "file-out",
    "completion_window": "24h", "created_at": 1780000000, "completed_at": 1780003600,
}  # fmt: skip
CHAT = {
    "id": "chatcmpl-0123456789abcdefghij", "object": "chat.completion", "created": 1780000000,
    "model": "gpt-4o", "choices": [],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
}  # fmt: skip
NOTHING_WAS_DROPPED = """
from receipt_dynamo import open_usage_client as _open
assert not _open().dropped().count
"""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def examples_of(page: str) -> list[str]:
    """Return the page's blocks of Python, in order."""
    return [code for language, code in FENCE.findall(text_of(page)) if language == "python"]


class Vendors(StandIn):
    """Answers for a batch as well, whose output is one line."""

    def answer(self, asked: Asked) -> Answer:
        if "/batches/" in asked.path:
            return reply(BATCH)
        if "/files/" in asked.path:
            return reply({"custom_id": "r-1001", "response": {"status_code": 200, "body": CHAT}})
        return super().answer(asked)


@pytest.fixture
def vendors() -> Iterator[Vendors]:
    with Vendors() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples_of(page) and page not in OWN_TESTS]
)
def test_the_examples_of_a_page_run_one_after_another(
    page: str, vendors: Vendors, tmp_path: Path
) -> None:
    """Every name that they use is theirs; nothing is dropped, and nothing is warned of."""
    program = tmp_path / "page.py"
    program.write_text("\n".join([*examples_of(page), NOTHING_WAS_DROPPED]))
    own = {"RECEIPT_USAGE_DIR": str(tmp_path / "usage"), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**environment_of(vendors), **own},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_code_of_the_readme_is_no_wider_than_that_of_the_project() -> None:
    """A block or a command of more than 100 columns is cut off on a page."""
    blocks = [line for _, code in FENCE.findall(text_of("README.md")) for line in code.splitlines()]
    commands = re.findall("^    .*$", FENCE.sub("", text_of("README.md")), re.MULTILINE)
    assert [line for line in blocks + commands if len(line) > 100] == []


def test_the_program_of_the_readme_is_neither_linted_nor_shown_by_git(tmp_path: Path) -> None:
    """The reader makes it in the checkout; a module of that name elsewhere is linted as ever."""
    assert "/pipeline.py" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "receipt_dynamo").mkdir()
    for name in ("pipeline.py", "receipt_dynamo/pipeline.py"):
        (tmp_path / name).write_text("import os\n")
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--show-files", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert str(tmp_path / "receipt_dynamo" / "pipeline.py") in ran.stdout.splitlines()
    assert str(tmp_path / "pipeline.py") not in ran.stdout.splitlines()


def test_pages_with_a_test_of_their_own_have_one() -> None:
    """No page is left out by mistake."""
    for page, test in OWN_TESTS.items():
        assert examples_of(page)
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def anchors_of(page: str) -> set[str]:
    """Return what a link may name in a page, as GitHub makes it of the headings."""
    headings = HEADING.findall(FENCE.sub("", text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """To a file or directory that is there, and to a heading in it."""
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(os.path.relpath(target, ROOT)), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page: str) -> None:
    """Named with its folder, whether in words or in a command."""
    for name in NAMED_FILE.findall(LINK.sub("", text_of(page))):
        assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_program_takes(page: str) -> None:
    """Its words and options exist, as they stand in the lines that a reader copies."""
    for line in COMMAND.findall(text_of(page)):
        words = shlex.split(line, comments=True)
        command: click.Command = cli
        with click.Context(cli) as context:
            while isinstance(command, click.Group) and words:
                found = command.get_command(context, words.pop(0))
                assert found is not None, f"{page}: {line}"
                command = found
        if "ignore_unknown_options" in command.context_settings:
            continue  # the harness takes them
        known = {option for param in command.params for option in param.opts} | {"--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{page}: {line}"
