"""``receipt-usage dead``: letters are listed, shown, retried and dropped, with a clear answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from receipt_dynamo import Settings, StoreError, UsageClient, open_usage_client
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import make_metric, stored_ids
from tests.support.stores import POISON, allow_poison, forbid_poison
from tests.unit.conftest import RunCommand

NOTHING = "there are no dead letters"
JUNK = b'{"service":"openai","model":"gpt-4o"}'


@pytest.fixture
def client(usage_dir: Path) -> UsageClient:
    """A pipeline whose store refuses the model ``poison``."""
    client = open_usage_client(Settings(usage_dir=usage_dir, drain="manual"))
    client.put_ai_usage_metric(make_metric(request_id="sound"))
    client.flush()
    forbid_poison(client.settings.store_path)
    return client


@pytest.fixture
def kill(client: UsageClient, run: RunCommand) -> Callable[..., list[str]]:
    """Let records die; return the ids of all letters."""

    def record(*names: str, junk: bytes | None = None) -> list[str]:
        for name in names:
            client.put_ai_usage_metric(
                make_metric(
                    request_id=name,
                    model=POISON,
                    input_tokens=1200,
                    output_tokens=5,
                    cost_usd=Decimal("0.0125"),
                )
            )
        if junk is not None:
            client._pipeline.spool.writer.append(junk)
        client.flush()
        return [letter["id"] for letter in run("dead", "list", "--json").json["letters"]]

    return record


def test_nothing_dead_is_said_and_no_fault(run: RunCommand) -> None:
    """A new installation: every action has an answer, none makes anything."""
    for args in (["list"], ["retry", "--all"], ["drop", "--all", "--yes"]):
        ran = run("dead", *args)
        assert (ran.code, ran.out, ran.one_error) == (0, "", NOTHING), args
    assert run("dead", "list", "--json").json == {"letters": [], "quarantine": []}


def test_the_list_shows_what_is_known_of_each_letter(run: RunCommand, kill) -> None:
    """Id, time, service, model, tokens, cost and reason; and which of them are no records."""
    letters = kill("a", junk=JUNK)
    ran = run("dead", "list")
    assert ran.code == 0
    header, _, *rows = ran.out.splitlines()
    assert header.split() == "id died service model input output cost USD reason".split()
    assert [row.split()[0] for row in rows] == letters
    assert "openai" in rows[1]
    assert "1,200       5    0.0125" in rows[1]
    assert rows[1].endswith("SQLite refuses it: poison is forbidden")
    assert "1 letter is no record" in ran.one_error
    assert letters[0] in ran.one_error


def test_the_list_as_json_is_whole_and_exact(run: RunCommand, kill, client: UsageClient) -> None:
    """Money as a decimal string, times in UTC, and the place of the line."""
    kill("a")
    (letter,) = run("dead", "list", "--json").json["letters"]
    died, file = letter.pop("died"), Path(letter.pop("file"))
    assert died.endswith("Z")
    assert file.parent == client.settings.spool_dir / "dead"
    assert file.exists()
    assert letter == {
        "id": letter["id"],
        "reason": "SQLite refuses it: poison is forbidden",
        "can_be_retried": True,
        "service": "openai",
        "model": POISON,
        "operation": "chat",
        "timestamp": "2026-11-21T12:00:00Z",
        "request_id": "a",
        "input_tokens": 1200,
        "output_tokens": 5,
        "cost_usd": "0.0125",
        "line": 1,
    }


def test_damaged_lines_are_named_with_their_place(run: RunCommand, client: UsageClient) -> None:
    """They are counted as lost already, and nothing here retries them."""
    client.put_ai_usage_metric(make_metric())
    (segment,) = client.settings.spool_dir.glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"00000000 rotten\n00000000 too\n0")
    client.flush()
    place = client.settings.spool_dir / "quarantine"
    ran = run("dead", "list")
    assert ran.code == 0
    assert f"2 damaged lines in {place}" in ran.err
    assert run("dead", "list", "--json").json["quarantine"] == [
        {"file": str(place / f"{segment.name}.bad"), "lines": 2}
    ]


def test_show_prints_the_whole_record(run: RunCommand, kill) -> None:
    """As JSON where it is JSON, else as it was, with what is wrong with it."""
    junk, sound = kill("a", junk=JUNK)
    shown = run("dead", "show", sound).json
    assert (shown["fault"], shown["record"]["request_id"]) == (None, "a")
    shown = run("dead", "show", junk).json
    assert "operation" in shown["fault"]
    assert shown["record"] == {"service": "openai", "model": "gpt-4o"}
    kill(junk=b"{")
    unreadable = run("dead", "list", "--json").json["letters"][-1]
    assert run("dead", "show", unreadable["id"]).json["record"] == "{"


@pytest.mark.parametrize("chosen", ["--all", "named"])
def test_what_is_retried_is_delivered_once_the_cause_is_mended(
    run: RunCommand, kill, client: UsageClient, chosen: str
) -> None:
    """It says how many arrived; then they are in every report and no longer dead."""
    letters = kill("a", "b")
    allow_poison(client.settings.store_path)
    ran = run("dead", "retry", *(["--all"] if chosen == "--all" else letters))
    assert (ran.code, ran.out, ran.one_error) == (0, "", "retried: 2 letters, 2 delivered")
    assert stored_ids(client) == ["a", "b", "sound"]
    assert run("dead", "list").one_error == NOTHING


def test_what_dies_again_is_said(run: RunCommand, kill) -> None:
    """Exit code 1: not all that was retried is in the store."""
    kill("a", "b")
    ran = run("dead", "retry", "--all", "--json")
    assert ran.code == 1
    assert ran.json == {"retried": 2, "delivered": 0, "dead": 2, "waiting": 0}
    assert "dead again: 2. See: receipt-usage dead list" in ran.err
    assert len(kill()) == 2


def test_a_store_that_fails_leaves_what_was_retried_in_the_spool(
    run: RunCommand, kill, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, with the cause; the next command delivers it."""
    kill("a")
    allow_poison(client.settings.store_path)

    def away(*_: object) -> None:
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "write", away)
        ran = run("dead", "retry", "--all")
    assert ran.code == 1
    assert "in the spool again, for the next command: 1 letter" in ran.err
    assert "error: the store is away" in ran.err
    assert stored_ids(client) == ["a", "sound"]


def test_a_letter_that_is_no_record_is_not_retried(
    run: RunCommand, kill, client: UsageClient
) -> None:
    """Named, it is a fault with the remedy; with --all it is left out and said."""
    allow_poison(client.settings.store_path)
    (junk,) = kill(junk=JUNK)
    ran = run("dead", "retry", junk)
    assert ran.code == 1
    assert ran.one_error.startswith(f"error: the dead letter {junk} is no record")
    assert f"receipt-usage dead drop {junk}" in ran.one_error
    ran = run("dead", "retry", "--all")
    assert (ran.code, "1 letter is no record" in ran.one_error) == (1, True)
    forbid_poison(client.settings.store_path)
    kill("a")
    allow_poison(client.settings.store_path)
    ran = run("dead", "retry", "--all")
    assert (ran.code, ran.err.splitlines()[0]) == (0, "retried: 1 letter, 1 delivered")


def test_what_is_dropped_is_counted_as_lost(run: RunCommand, kill) -> None:
    """Named letters go without a question, and every report shows the loss."""
    letters = kill("a", "b", "c")
    ran = run("dead", "drop", *letters[:2])
    assert ran.code == 0
    assert ran.one_error == "dropped: 2 letters. Reports count what was in them as lost"
    ran = run("report", "--json")
    dropped = ran.json["dropped"]
    assert (dropped["count"], dropped["by_reason"]) == (2, {"dead": 2})
    assert (dropped["input_tokens"], dropped["cost_usd"]) == (2400, "0.025")
    assert "not shown here: 1 dead letter. See: receipt-usage dead list" in ran.err
    assert run("dead", "drop", "--all", "--yes", "--json").json == {"dropped": 1}
    assert "dead letter" not in run("report").err


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_dropping_all_asks_in_a_terminal(
    run: RunCommand, kill, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    """No is the default, and no fault."""
    kill("a", "b")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ran = run("dead", "drop", "--all")
    assert ran.code == 0
    assert "Drop 2 letters, and count them as lost?" in ran.err
    assert ("nothing was dropped" in ran.err) == (left == 2)
    assert len(kill()) == left


def test_dropping_all_without_anybody_to_ask_needs_yes(run: RunCommand, kill) -> None:
    """A script says what it means; nothing is dropped by accident."""
    kill("a")
    ran = run("dead", "drop", "--all", stdin=b"y\n")
    assert ran.code == 2
    assert "add --yes" in ran.one_error
    assert len(kill()) == 1


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["retry"], 2, "name at least one letter"),
        (["drop"], 2, "name at least one letter"),
        (["retry", "--all", "0123456789ab"], 2, "not both"),
        (["show"], 2, "Missing argument 'ID'"),
        (["show", "0123456789ab"], 1, "no dead letter has the id '0123456789ab'"),
        (["retry", "../../etc"], 1, "no dead letter has the id '../../etc'"),
        (["drop", "\x1b[2J"], 1, "no dead letter has the id"),
        (["bury"], 2, "No such command 'bury'"),
    ],
)
def test_bad_input_gets_one_clear_line(
    run: RunCommand, client: UsageClient, args: list[str], code: int, said: str
) -> None:
    """Exit code 2 for wrong usage, 1 for a letter that is not there."""
    assert client
    ran = run("dead", *args)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.one_error
    assert ran.one_error.isprintable()


def test_letters_are_those_of_this_destination(
    run: RunCommand, kill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another table has letters of its own; to look at them needs no store."""
    assert len(kill("a")) == 1
    monkeypatch.setenv("DYNAMODB_TABLE_NAME", "usage")
    assert run("dead", "list").one_error == NOTHING


def test_nothing_is_retried_where_nothing_can_be_delivered(
    run: RunCommand, kill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that opens no client is said before a letter is touched."""
    letters = kill("a")
    with monkeypatch.context() as patch:
        patch.setenv("ENVIRONMENT", "production")
        ran = run("dead", "retry", "--all")
    assert ran.code == 1
    assert "DYNAMODB_TABLE_NAME is not set" in ran.one_error
    assert kill() == letters
