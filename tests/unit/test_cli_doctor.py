"""receipt-usage doctor: looks at everything, changes nothing, says what is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, Settings, open_usage_client
from receipt_dynamo import doctor as doctoring

Run = Callable[..., Any]


def findings(run: Run, code: int = 0) -> dict[str, tuple[str, str]]:
    """What doctor finds, by its name; later ones of one name win."""
    ran = run("doctor", "--json")
    assert ran.code == code, ran.out
    return {found["what"]: (found["mark"], found["detail"]) for found in ran.json["findings"]}


def test_a_healthy_installation_is_all_ok(run: Run) -> None:
    """Versions, directory, file system, settings, store, spool and prices: one line each."""
    found = findings(run)

    assert {
        *("receipt-usage", "Python", "SQLite", "botocore", "directory", "file system"),
        *("setting usage_dir", "setting table_name", "store", "spool local", "prices"),
    } <= set(found)
    assert "fault" not in {mark for mark, _ in found.values()}
    ran = run("doctor")
    assert (ran.code, ran.err) == (0, "")
    assert all(line.startswith(("ok ", "warn ")) for line in ran.out.splitlines())


def test_doctor_changes_nothing(run: Run, usage_dir: Path) -> None:
    """A directory that is not there is not made, a spool is not taken in."""
    run("doctor")
    assert not usage_dir.exists()

    with open_usage_client(Settings.from_env(drain="manual")) as client:
        client.query()
        client.put_ai_usage_metric(
            AIUsageMetric("tool", "search", "call", datetime(2026, 1, 1, tzinfo=UTC))
        )
        found = findings(run)["spool local"]
        assert found == ("ok", "records waiting: 1; the next report takes them in")
        assert client.pending() == 1


def test_settings_are_shown_with_their_source(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that set it, or that it is the default."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    found = findings(run)

    assert found["setting region"][1] == "eu-west-1 (AWS_DEFAULT_REGION)"
    assert found["setting usage_dir"][1].endswith("(RECEIPT_USAGE_DIR)")
    assert found["setting environment"][1] == "development (ENVIRONMENT)"
    assert found["setting segment_bytes"][1].endswith("(default)")


@pytest.mark.parametrize("variable", ["DYNAMODB_TABLE_NAME", "DYNAMO_TABLE_NAME"])
def test_a_blank_table_is_none(run: Run, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The embedded store is used, and in production a table is missing."""
    monkeypatch.setenv(variable, " ")
    assert findings(run)["setting table_name"][1] == "not set (default)"
    assert run("report").code == 0
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert "DYNAMODB_TABLE_NAME is not set" in run("report").one_error


@pytest.mark.parametrize(
    "words",
    [
        ("report",),
        ("ship",),
        ("health",),
        ("export",),
        ("dead", "list"),
        ("import", "-"),
        ("log", "tool", "Bash"),
    ],
)
def test_a_wrong_word_is_refused_by_every_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Also by those that deliver in their own way, whatever a pipeline is told."""
    monkeypatch.setenv("RECEIPT_USAGE_DRAIN", "foo")
    ran = run(*words, stdin=b"{}")
    assert ran.code != 0
    assert "RECEIPT_USAGE_DRAIN='foo' is unknown: 'thread' or" in ran.one_error


@pytest.mark.parametrize(
    ("environ", "what", "said"),
    [
        ({"ENVIRONMENT": "production"}, "destination", "DYNAMODB_TABLE_NAME is not set"),
        ({"RECEIPT_USAGE_DRAIN": "never"}, "settings", "RECEIPT_USAGE_DRAIN='never'"),
        ({"RECEIPT_USAGE_DIR": "/proc/nowhere/usage"}, "directory", "cannot be created"),
        ({"RECEIPT_USAGE_PRICES": "/nowhere.toml"}, "price file", "/nowhere.toml"),
    ],
)
def test_a_wrong_setting_is_a_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], what: str, said: str
) -> None:
    """Exit code 1, and the line that the other commands would stop with."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    mark, detail = findings(run, code=1)[what]

    assert mark == "fault"
    assert said in detail


@pytest.mark.parametrize(
    ("variable", "remark"),
    [
        ("RECEIPT_USAGE_MAXBYTES", "did you mean RECEIPT_USAGE_MAX_BYTES?"),
        ("RECEIPT_USAGE_ENVIRONMENT", "docs/recording.md has them all"),
        ("RECEIPT_USAGE_COLOUR", "docs/recording.md has them all"),
        ("DYNAMODB_TABLE", "did you mean DYNAMODB_TABLE_NAME?"),
    ],
)
def test_a_variable_that_is_no_setting_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, remark: str
) -> None:
    """A slip of the pen leaves the default in force."""
    monkeypatch.setenv("RECEIPT_USAGE_COMMAND", "receipt-usage")  # the command line's own
    monkeypatch.setenv("DYNAMODB_REGION", "x")  # nobody's
    monkeypatch.setenv(variable, "1")
    warnings = {what: found for what, found in findings(run).items() if what[:8] == "variable"}
    assert warnings == {
        f"variable {variable}": ("warn", f"is no setting, and has no effect; {remark}")
    }


def test_an_unsafe_directory_is_a_fault(run: Run, usage_dir: Path) -> None:
    """A directory that others may write to is refused, with the remedy."""
    usage_dir.mkdir()
    usage_dir.chmod(0o777)

    mark, detail = findings(run, code=1)["directory"]

    assert mark == "fault"
    assert "chmod go-w" in detail
    assert "FAULT" in run("doctor").out


def test_a_newer_store_is_a_fault(run: Run, usage_dir: Path) -> None:
    """This version neither reads nor writes it."""
    run("report")
    with closing(sqlite3.connect(usage_dir / "usage.db")) as store:
        store.execute("PRAGMA user_version = 99")

    assert findings(run, code=1)["store"][0] == "fault"


def test_a_damaged_store_is_warned_of_until_it_is_looked_at(run: Run, usage_dir: Path) -> None:
    """Before it is salvaged, and after, for as long as the damaged file lies there."""
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        client.put_ai_usage_metric(
            AIUsageMetric("tool", "search", "call", datetime(2026, 1, 1, tzinfo=UTC))
        )
    (usage_dir / "usage.db").write_bytes(b"garbage" * 1000)

    mark, detail = findings(run)["store"]

    assert mark == "warn"
    assert "the next report or delivery" in detail
    assert not list(usage_dir.glob("*.corrupt-*"))  # doctor changes nothing
    assert run("report").code == 0
    (aside,) = usage_dir.glob("*.corrupt-*")
    assert findings(run)["store"][0] == "ok"
    mark, detail = findings(run)["store set aside"]
    assert mark == "warn"
    assert f"rm {aside}*" in detail
    aside.unlink()
    assert "store set aside" not in findings(run)


def test_what_was_set_aside_and_what_waits_elsewhere_is_warned_of(
    run: Run, usage_dir: Path
) -> None:
    """Dead records, damaged lines, and records of another destination."""
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        client.put_ai_usage_metric(
            AIUsageMetric("tool", "search", "call", datetime(2026, 1, 1, tzinfo=UTC))
        )
        spool = usage_dir / "spool"
        (spool / "local").rename(spool / "usage@eu-west-1")
    (spool / "local" / "dead").mkdir(parents=True)
    (spool / "local" / "dead" / "x.jsonl").write_text("{}\n")

    found = findings(run)

    assert found["spool usage@eu-west-1"][0] == "warn"
    assert "DYNAMODB_TABLE_NAME=usage" in found["spool usage@eu-west-1"][1]
    mark, detail = found["spool local"]
    assert mark == "warn"
    assert detail.startswith(f"{spool / 'local' / 'dead'} holds records that can never be stored")
    assert detail.endswith("see: receipt-usage dead list")


@pytest.mark.parametrize(
    ("kind", "said"), [("nfs4", "local disk"), ("tmpfs", "gone after a reboot"), ("ext4", "")]
)
def test_a_network_or_memory_file_system_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    """Locks do not hold over a network, and memory does not outlive a reboot."""
    monkeypatch.setattr(doctoring, "file_system_of", lambda _directory: kind)

    mark, detail = findings(run)["file system"]

    assert (mark == "warn") is bool(said)
    assert said in detail


@pytest.mark.parametrize(
    ("version", "mended"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
    ],
)
def test_the_wal_reset_bug_is_noted(
    run: Run, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], mended: bool
) -> None:
    """Where SQLite carries it the line says so, and that the store's lock guards against it."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)

    mark, detail = findings(run)["SQLite"]

    assert mark == "ok"
    assert ("WAL-reset bug" in detail) is not mended


def test_old_prices_are_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A price list that is months old lacks the models of today."""
    from datetime import date

    from receipt_label.cli import doctor

    monkeypatch.setattr(doctor, "_newest_price", lambda _today: date(2026, 1, 1))

    assert findings(run)["prices"][0] == "warn"


@pytest.mark.parametrize(
    ("text", "mark", "said"),
    [
        ("", "warn", "is empty"),
        ("# nothing yet", "warn", "is empty"),
        ('[[price]]\nservice = "opnai"\nmodel = "x"\nfree = true', "warn", "mean 'openai'?"),
        ('[[price]]\nservice = "our-own-zz"\nmodel = "x"\nfree = true', "warn", "very name"),
        ('[aliases.azrue]\na = "gpt-4o"', "warn", "mean 'azure'?"),
        ('[[price]]\nservice = "ollama"\nmodel = "x"\nfree = true', "ok", ""),
        ('[[price]]\nservice = "xai"\nmodel = "x"\nfree = true', "ok", ""),
        ('[[price]]\nmodel = "x"\nfree = true', "ok", ""),
    ],
)
def test_a_price_file_that_does_nothing_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, mark: str, said: str
) -> None:
    """An empty one, or a rule of a service that nobody knows: no fault, and no price either."""
    file = tmp_path / "prices.toml"
    file.write_text(text)
    monkeypatch.setenv("RECEIPT_USAGE_PRICES", str(file))

    found = findings(run)["price file"]

    assert found[0] == mark
    assert said in found[1]


@pytest.mark.parametrize(
    ("mode", "mark"), [(0o755, "ok"), (0o1777, "ok"), (0o777, "warn"), (0o775, "warn")]
)
def test_the_parent_of_a_directory_to_be_made_is_looked_at(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, mark: str
) -> None:
    """Who may write to the parent may put another directory in the place of ours."""
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(mode)
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(parent / "deep" / "usage"))

    assert findings(run)["directory"][0] == mark
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "no permission"])
def test_a_directory_that_cannot_be_made_is_a_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Below a file, or where one may not write."""
    place = tmp_path / "place"
    if kind == "file":
        place.touch()
    else:
        place.mkdir()
        monkeypatch.setattr(doctoring.os, "access", lambda *_: False)
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(place / "usage"))

    mark, detail = findings(run, code=1)["directory"]

    assert mark == "fault"
    assert "Set RECEIPT_USAGE_DIR" in detail
