"""The front door of receipt-usage: exit codes, one clear line, and nothing loaded in vain."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import __version__
from receipt_label.cli.main import main

Run = Callable[..., Any]
Lines = Callable[..., Path]
Reply = Callable[..., dict[str, Any]]

PROGRAM = [sys.executable, "-m", "receipt_label.cli.main"]


def start(*args: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start the real program."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, args)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.usefixtures("usage_dir")
def test_help_loads_no_command() -> None:
    """--help and --version stay quick: no rich, no prices, no SQLite, none of our own machinery."""
    code = (
        "import sys; from receipt_label.cli.main import main; code = main(['--help']);"
        "heavy = {'rich', 'genai_prices', 'sqlite3', 'boto3', 'receipt_label.usage',"
        "'receipt_label.cli.report', 'receipt_dynamo.usage_client'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stderr
    for command in ("import", "report", "export", "prices", "doctor"):
        assert f"\n  {command} " in found.stdout


def test_every_command_has_a_help(run: Run) -> None:
    """Each says what it does and what it takes, on standard output."""
    for command in (["import"], ["report"], ["export"], ["prices"], ["prices", "show"], ["doctor"]):
        ran = run(*command, "--help")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"Usage: receipt-usage {' '.join(command)}")


def test_the_version(run: Run) -> None:
    """--version names the program and its version."""
    assert run("--version").out == f"receipt-usage {__version__}\n"


def test_no_command_shows_the_help_as_wrong_usage(run: Run) -> None:
    """Data goes to standard output; a help that nobody asked for is none."""
    ran = run()

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage:")


def test_an_unknown_command_names_those_that_there_are(run: Run) -> None:
    """Exit code 2 and the list."""
    ran = run("reprot")

    assert ran.code == 2
    assert "import, report, export, health, ship, dead, table, prices, doctor" in ran.one_error


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"ENVIRONMENT": "production"}, "DYNAMODB_TABLE_NAME is not set, and ENVIRONMENT says"),
        ({"RECEIPT_USAGE_SEGMENT_BYTES": "many"}, "RECEIPT_USAGE_SEGMENT_BYTES='many'"),
        ({"RECEIPT_USAGE_DIR": "/proc/nowhere"}, "/proc/nowhere"),
        ({"RECEIPT_USAGE_SENDERS": "0"}, "RECEIPT_USAGE_SENDERS=0"),
    ],
)
def test_a_wrong_setting_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str], said: str
) -> None:
    """The line names the variable; exit code 1."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    ran = run("report")

    assert ran.code == 1
    assert said in ran.one_error


def test_the_old_name_of_the_table_is_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deprecated variable still counts, with a line that names the new one."""
    monkeypatch.setenv("DYNAMO_TABLE_NAME", "usage")

    assert run("report").err.splitlines()[0] == (
        "warning: DYNAMO_TABLE_NAME is deprecated. Use DYNAMODB_TABLE_NAME instead."
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_store_of_another_user_is_refused_in_one_line(
    run: Run, lines: Lines, reply: Reply, usage_dir: Path
) -> None:
    """Records in a directory of somebody else could be read or forged."""
    run("import", lines(reply()))
    os.chown(usage_dir / "usage.db", 12345, 12345)

    for command in ("report", "export"):
        ran = run(command)
        assert ran.code == 1
        assert "12345" in ran.one_error


def test_a_store_that_is_damaged_is_one_line_and_the_report_goes_on(
    run: Run, usage_dir: Path
) -> None:
    """What is wrong is said once; what was recorded meanwhile is shown."""
    run("report")
    (usage_dir / "usage.db").write_bytes(b"not a database" * 1000)

    ran = run("report", "--json")

    assert (ran.code, ran.json["total"]["calls"]) == (0, 0)
    assert "usage.db was damaged" in ran.one_error
    again = run("report")
    assert (again.code, again.err.count("was damaged")) == (0, 0)


def test_an_import_into_a_store_that_fails_is_one_line(
    run: Run, lines: Lines, reply: Reply, usage_dir: Path
) -> None:
    """Nothing is taken from the file: once the store is mended, the same import counts it once."""
    run("report")
    with closing(sqlite3.connect(usage_dir / "usage.db")) as store:
        store.execute("PRAGMA user_version = 99")

    ran = run("import", lines(reply()))

    assert ran.code == 1
    assert "usage.db" in ran.one_error
    (usage_dir / "usage.db").unlink()
    assert run("import", lines(reply())).code == 0
    assert run("report", "--json").json["total"]["calls"] == 1


def test_a_newer_store_is_refused_in_one_line(run: Run, usage_dir: Path) -> None:
    """An older program leaves a newer store alone."""
    run("report")
    store = sqlite3.connect(usage_dir / "usage.db")
    store.execute("PRAGMA user_version = 99")
    store.close()

    ran = run("report")

    assert ran.code == 1
    assert "newer version" in ran.one_error


def test_a_price_file_with_a_typo_is_one_line(
    run: Run, lines: Lines, reply: Reply, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The import stops before anything is recorded at a wrong price."""
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nservice = "openai"\nmodle = "gpt-4o"\n')
    monkeypatch.setenv("RECEIPT_USAGE_PRICES", str(prices))

    ran = run("import", lines(reply()))

    assert ran.code == 1
    assert "modle" in ran.one_error


def test_a_library_warning_is_one_line_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the libraries log from WARNING on stands on standard error, escapes made harmless."""

    def read(*_args: object) -> None:
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("receipt_dynamo.x").exception("odd \x1b[31m")
        raise KeyboardInterrupt

    monkeypatch.setattr("receipt_label.cli.opening.read_settings", read)

    ran = run("report")

    assert ran.code == 130
    assert ran.err.splitlines() == ["error: odd \\x1b[31m", "interrupted"]


@pytest.mark.usefixtures("usage_dir")
def test_a_reader_that_has_seen_enough_is_no_fault(lines: Lines, reply: Reply) -> None:
    """`export | head` ends quietly with exit code 0."""
    calls = [reply(id=f"chatcmpl-0123456789-{n:05}") for n in range(3000)]
    assert finish(start("import", lines(*calls)))[0] == 0

    exporting = start("export")
    assert exporting.stdout is not None
    first = exporting.stdout.readline()
    exporting.stdout.close()
    assert exporting.stderr is not None
    err = exporting.stderr.read()
    exporting.stderr.close()

    assert json.loads(first)["service"] == "openai"
    assert exporting.wait(60) == 0
    assert err == ""


@pytest.mark.usefixtures("usage_dir")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_a_fault() -> None:
    """A report that could not be written is said to be so."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        code, _, err = finish(start("report", "--json", stdout=full))

    assert code == 1
    assert err.splitlines() == ["error: the output cannot be written: No space left on device"]


def test_an_interrupt_ends_an_import_without_a_traceback_and_loses_nothing(
    reply: Reply, usage_dir: Path
) -> None:
    """What was recorded before Ctrl-C is in the next report; exit code 130."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    importing = start("import", "-", stdin=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    assert importing.stdin is not None
    text = json.dumps(reply(created=None, id=None))
    for number in range(500):
        importing.stdin.write(text.replace("0123456789", f"{number:010}") + "\n")
        importing.stdin.write(" " * 1000 + "\n")
    importing.stdin.flush()
    wait_for(lambda: any(path.stat().st_size > 1000 for path in usage_dir.rglob("*.seg")))
    importing.send_signal(signal.SIGINT)
    assert importing.stderr is not None
    err = importing.stderr.read()

    assert importing.wait(60) == 130
    importing.stdin.close()
    assert importing.stdout is not None
    importing.stdout.close()
    importing.stderr.close()
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    code, out, _ = finish(start("report", "--json"))
    assert code == 0
    assert json.loads(out)["total"]["calls"] > 0


@pytest.mark.usefixtures("usage_dir")
def test_what_the_terminal_cannot_show_is_escaped(lines: Lines, reply: Reply) -> None:
    """A name in letters that the output's encoding lacks is no reason to fail."""
    finish(start("import", lines(reply(model="модель-ü"))))

    code, out, _ = finish(start("report", env={**os.environ, "PYTHONIOENCODING": "ascii"}))

    assert code == 0
    assert "\\u043c" in out


@pytest.mark.usefixtures("usage_dir")
def test_what_is_piped_has_no_colours(lines: Lines, reply: Reply) -> None:
    """Only a terminal gets escape sequences."""
    finish(start("import", lines(reply())))

    assert "\x1b" not in finish(start("report"))[1]


def test_main_leaves_the_loggers_as_it_found_them(run: Run) -> None:
    """A program that calls main() keeps its own logging."""
    before = list(logging.getLogger().handlers)

    run("report")

    assert logging.getLogger().handlers == before
    assert callable(main)


def test_a_terminal_sees_the_progress_of_long_work(
    run: Run, lines: Lines, reply: Reply, monkeypatch: pytest.MonkeyPatch, usage_dir: Path
) -> None:
    """Reading a file, and taking in a long backlog; without a terminal there is no bar."""
    from receipt_label.cli import progress

    file = lines(reply(), name="calls[bold].jsonl")
    assert "calls" not in run("import", file, "--at", "2026-11-01").err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr(progress, "_LONG_BACKLOG", 0)

    assert usage_dir
    assert "calls[bold].jsonl" in run("import", file).err.replace("\n", "")
    assert "taking in the spool" in run("report").err
