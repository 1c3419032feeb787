"""Transcripts that grow: each message counts once, with the most that any line gives it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo import Settings, open_usage_client
from receipt_label import AIUsageTracker
from receipt_label.importers import transcript_importer as module
from receipt_label.importers.importer import FileTally
from receipt_label.importers.source import open_source
from tests.support import NOON
from tests.support.transcripts import IMPORT, message, stored

Run = Callable[..., Any]
Lines = Callable[..., Path]


def test_the_most_complete_snapshot_of_a_message_counts(run: Run, lines: Lines) -> None:
    """Trouble 33: not the first one, and not the last one where that says less."""
    for snapshots in ([1, 1, 220], [220, 1], [3, 220, 220, 2]):
        shutil.rmtree(Settings.from_env().usage_dir, ignore_errors=True)
        run(*IMPORT, lines(*[message(output=made) for made in snapshots]))
        (call,) = stored()
        assert (call.output_tokens, call.api_calls) == (220, 1)


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_file_that_has_grown_replaces_what_was_partial(run: Run, lines: Lines, cut: int) -> None:
    """And an older copy of it, read later, takes nothing back."""
    parts = [
        message(output=1, timestamp="2026-11-20T09:00:00.000Z"),
        message(output=1, timestamp="2026-11-20T09:00:01.000Z"),
        message(output=220, stop="end_turn", timestamp="2026-11-20T09:00:02.000Z"),
        message("msg_011CdV3RCmcjkmfJNRP4vp99", 7, timestamp="2026-11-20T09:00:03.000Z"),
    ]
    part, whole = lines(*parts[:cut], name="part.jsonl"), lines(*parts, name="whole.jsonl")
    for path in (part, whole, part):
        assert run(*IMPORT, path).code == 0
    assert [(call.output_tokens, call.timestamp.second) for call in stored()] == [(220, 0), (7, 3)]


def test_a_missing_request_id_doubles_nothing(run: Run, lines: Lines) -> None:
    """Trouble 32: the message's id alone tells its snapshots from other calls."""
    run(*IMPORT, lines(message(requestId=None), message(requestId=None, output=20)))
    assert [call.output_tokens for call in stored()] == [20]


def test_a_missing_message_id_doubles_nothing(run: Run, lines: Lines) -> None:
    """The request's id stands in; without either each line is a call of its own."""
    path = lines(
        message(None, 1),
        message(None, 30),
        message(None, 5, requestId="req_011CdV3RAbeLdrLddF6wZZZZ"),
    )
    run(*IMPORT, path)
    run(*IMPORT, path)
    assert sorted(call.output_tokens or 0 for call in stored()) == [5, 30]
    bare = lines(message(None, 1, requestId=None), message(None, 2, requestId=None), name="b.jsonl")
    for _ in range(2):
        run(*IMPORT, bare)
    assert len(stored()) == 4


def test_short_ids_are_told_apart_by_what_was_sent(run: Run, lines: Lines) -> None:
    """Trouble 28: a proxy's ids repeat (``stub``); snapshots of one call send the same."""
    path = lines(
        message("stub", 1, requestId=None), message("stub", 9, requestId=None),
        message("stub", 4, requestId=None, sent=250),
        message("stub", 5, requestId=None, sessionId="s2"),
    )  # fmt: skip
    for _ in range(2):
        run(*IMPORT, path)
    assert sorted(call.output_tokens or 0 for call in stored()) == [4, 5, 9]


def test_a_crashed_import_is_resumed_by_the_next(
    run: Run, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stopped: what is there already is there once."""
    whole = module.TranscriptImporter._record
    left = iter(range(7))

    def fatal(self: Any, *args: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module.TranscriptImporter, "_record", fatal)
        assert run(*IMPORT, projects).code == 130
    assert 0 < len(stored()) < 17
    assert run(*IMPORT, projects).code == 0
    assert len(stored()) == 17


def test_a_long_file_is_recorded_in_parts(
    run: Run, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with it; a snapshot that comes late still replaces."""
    monkeypatch.setattr(module, "_HELD", 20)
    monkeypatch.setattr(module, "_KEPT", 5)
    monkeypatch.setattr(module, "LINES_AT_ONCE", 10)
    entries = [message(f"msg_011CdV3RCmcjkmfJNRP{n:04}", 1) for n in range(100)]
    entries.append(message("msg_011CdV3RCmcjkmfJNRP0000", 50))
    ran = run(*IMPORT, lines(*entries), "--json")
    assert (ran.json["recorded"], ran.json["new_calls_in_store"]) == (100, 100)
    assert sum(call.output_tokens or 0 for call in stored()) == 149


SNAPSHOTS = st.lists(  # (message, output tokens): lines of one file, in the order of writing
    st.tuples(st.sampled_from("abc"), st.integers(1, 99)), min_size=1, max_size=8
)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    first=SNAPSHOTS,
    resumed=SNAPSHOTS,
    imports=st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=4),
)
def test_any_imports_of_growing_files_end_at_the_most_complete(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[str, int]],
    resumed: list[tuple[str, int]],
    imports: list[tuple[bool, int]],
) -> None:
    """Files are read at any length, in any order, any number of times: each message counts once,
    with the most output that any line gives it, and reading on changes nothing."""
    directory = tmp_path_factory.mktemp("growing")
    files = {}
    for name, snapshots in (("first", first), ("resumed", resumed)):
        files[name] = [
            message(
                f"msg_011CdV3RCmcjkmfJNRP4v{which * 3}", made, sessionId=name,
                timestamp=f"2026-11-20T09:00:{second:02}.000Z",
            )
            for second, (which, made) in enumerate(snapshots)
        ]  # fmt: skip
    with open_usage_client(Settings(usage_dir=directory / "usage", drain="manual")) as client:

        def read(name: str, length: int) -> None:
            path = directory / f"{name}.jsonl"
            path.write_text("".join(f"{json.dumps(entry)}\n" for entry in files[name][:length]))
            importer = module.TranscriptImporter(AIUsageTracker(client, strict=True))
            with open_source(str(path), NOON) as source:
                importer.run(source, FileTally(path.name))
            importer.finish()

        for is_first, length in imports:
            read("first" if is_first else "resumed", length)
        read("first", 8)
        read("resumed", 8)
        before = list(client.query())
        read("resumed", 8)
        read("first", 8)
        assert list(client.query()) == before
    most: dict[str, int] = {}
    for which, made in first + resumed:
        most[which] = max(made, most.get(which, 0))
    assert {metric.request_id[-1]: metric.output_tokens for metric in before} == most
    assert len(before) == len(most)
