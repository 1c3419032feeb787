"""``receipt-usage health``: the level first, every figure, and exit codes for monitors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from receipt_dynamo import Health, Settings, open_usage_client
from receipt_dynamo import health_check as module
from tests.support import make_metric
from tests.unit.conftest import Ran

Run = Callable[..., Ran]


@pytest.fixture
def settings(usage_dir: Path) -> Settings:
    return Settings(usage_dir=usage_dir, drain="manual")


def record(settings: Settings, count: int) -> None:
    """Record as a pipeline that ends without delivering."""
    client = open_usage_client(settings)
    client.put_ai_usage_metrics([make_metric() for _ in range(count)])
    client._pipeline.keep_stats()
    client._pipeline.spool.writer.seal()


def test_an_empty_directory_is_ok_and_stays_empty(run: Run, usage_dir: Path) -> None:
    """Exit code 0, the level on the first line, nothing on standard error, nothing made."""
    done = run("health")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "ok"
    assert not usage_dir.exists()


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_production_without_a_table_is_critical(
    run: Run, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    """No pipeline starts there, so nothing is recorded; with a table and its region it is ok."""
    monkeypatch.setenv("ENVIRONMENT", environment)
    done = run("health")
    assert (done.code, done.out.splitlines()[0]) == (2, "critical")
    assert (
        f"destination  DYNAMODB_TABLE_NAME is not set, and ENVIRONMENT says {environment}"
        in done.out
    )
    monkeypatch.setenv("DYNAMODB_TABLE_NAME", "usage")
    done = run("health")
    assert done.code == 2
    assert "the table usage is named, but no AWS region is. Set AWS_REGION" in done.out
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert run("health").code == 0


@pytest.mark.parametrize("place", ["a file", "the kernel's", "read-only"])
def test_a_directory_that_cannot_be_made_is_critical(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    """Whatever stands in its way is named."""
    parent = Path("/proc") if place == "the kernel's" else tmp_path / "parent"
    if place == "a file":
        parent.touch()
    elif place == "read-only":
        parent.mkdir()
        monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != parent)
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(parent / "usage"))
    done = run("health")
    assert (done.code, done.out.splitlines()[0]) == (2, "critical")
    reason = "is no directory" if place == "a file" else "is not writable"
    assert f"disk  {parent / 'usage'} cannot be created: {parent} {reason}" in done.out
    assert not (parent / "usage").exists()


def test_a_directory_that_can_make_no_spool_is_critical(
    run: Run, usage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, and its spool is not."""
    usage_dir.mkdir(mode=0o700)
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != usage_dir)
    done = run("health")
    assert done.code == 2
    assert f"disk  {usage_dir / 'spool'} cannot be created: {usage_dir} is not writable" in done.out


@pytest.mark.parametrize(
    ("count", "code", "level"), [(99, 0, "ok"), (100, 1, "warning"), (1000, 2, "critical")]
)
def test_the_exit_code_is_the_level(
    run: Run, settings: Settings, count: int, code: int, level: str
) -> None:
    """0, 1 or 2; the reasons stand below the level; standard error is clear."""
    record(settings, count)
    done = run("health")
    assert (done.code, done.err) == (code, "")
    lines = done.out.splitlines()
    assert lines[0] == level
    if code:
        assert lines[1].startswith("  queue  ")
        assert f"{count:,} records" in lines[1]
    assert f"waiting        {count:,}, the oldest for" in done.out
    assert f"recorded       {count:,}: {count:,} stored" in done.out
    assert run("health", "--json").code == code


def test_json_has_every_figure(run: Run, settings: Settings) -> None:
    """Each field of Health under its own name, times in ISO 8601, paths as text."""
    record(settings, 3)
    run("report")
    client = open_usage_client(settings)
    client.count_dropped("invalid")
    client.close()
    done = run("health", "--json", "--probe")
    found = done.json
    assert list(found) == [field.name for field in fields(Health)]
    assert (found["level"], done.code) == ("warning", 1)
    (reason,) = found["reasons"]
    assert (reason["level"], reason["rule"]) == ("warning", "drops")
    assert (found["recorded"], found["delivered"], found["dropped"]) == (4, 3, {"invalid": 1})
    assert found["spool_dir"] == str(settings.spool_dir)
    assert found["last_delivery"].endswith("+00:00")
    assert found["store_reachable"] is True


def test_the_table_shows_everything_that_is_odd(
    run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong has its line, with the way out."""
    record(settings, 1)
    client = open_usage_client(settings)
    client._pipeline.spool.writer.append(b'{"no":"metric"}')
    client.count_dropped("closed")
    client.flush()
    client._pipeline.note_error(OSError("the store is away"))
    client._pipeline.keep_stats()
    (settings.usage_dir / "usage.db.corrupt-1").touch()
    monkeypatch.setenv("DYNAMODB_TABLE_NAME", "receipts")
    monkeypatch.setattr(module, "_refusal", lambda _: "the disk is full")
    elsewhere = open_usage_client(settings)
    elsewhere.put_ai_usage_metric(make_metric())
    table = run("health", "--probe")
    assert table.code == 2
    assert "destination    receipts@us-east-1" in table.out
    assert "1 record for the embedded store. To deliver: env -u DYNAMODB_TABLE_NAME" in table.out
    assert "does not answer" in table.out
    assert "the disk is full" in table.out
    monkeypatch.delenv("DYNAMODB_TABLE_NAME")
    out = run("health").out
    assert "1 dropped (closed)" in out
    assert "dead           1 (1 ever)" in out
    assert "the store is away" in out
    assert "set aside      " in out
    elsewhere.close()
    client.close()


def test_figures_outlive_the_commands(run: Run, settings: Settings) -> None:
    """Each command is a process of its own; what it delivered is added up."""
    for _ in range(3):
        record(settings, 2)
        assert run("report").code == 0
    found = run("health", "--json").json
    assert (found["recorded"], found["delivered"], found["pending"]) == (6, 6, 0)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--jsonx"], {}),
        (["superfluous"], {}),
        ([], {"RECEIPT_USAGE_HEALTH_WARNING_PENDING": "many"}),
        ([], {"RECEIPT_USAGE_HEALTH_WARNING_PENDING": "5000"}),
    ],
)
def test_wrong_usage_and_settings_are_code_2_with_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str]
) -> None:
    """A monitor that cannot look is not told that all is well, and told the difference."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run("health", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.one_error.startswith("error: ")


def test_names_from_outside_cannot_steer_a_terminal(run: Run, settings: Settings) -> None:
    """A reason with an escape sequence is shown as what it is."""
    client = open_usage_client(settings)
    client.count_dropped("\x1b[2J")
    client.close()
    assert "\x1b" not in run("health").out
    assert json.loads(run("health", "--json").out)["dropped"] == {"\x1b[2J": 1}
