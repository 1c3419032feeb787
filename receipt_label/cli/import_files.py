"""``receipt-usage import``: recorded replies and agents' transcripts, from files into the store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from receipt_label.cli.output import counted, note, write_json
from receipt_label.cli.progress import bytes_bar, take_in
from receipt_label.cli.selection import iso_time

if TYPE_CHECKING:
    from receipt_dynamo import UsageClient
    from receipt_label.importers.importer import FileTally
    from receipt_label.importers.replies import ReplyImporter
    from receipt_label.importers.source import Source
    from receipt_label.importers.transcript_importer import TranscriptImporter
    from receipt_label.tracker import AIUsageTracker

__all__ = ["command"]

_BAD_LINES_SHOWN = 20
_REASONS = {
    "not_finished": "not finished yet",
    "not_usage": "no billable call",
    "not_billed": "not billed",
    "seen": "seen before",
    "unfinished_line": "line not finished yet",
}
_Tell = Callable[[int], None]
_REPLIES, _CLAUDE_CODE = "replies", "claude-code"


@click.command(name="import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format",
    "form",
    type=click.Choice([_REPLIES, _CLAUDE_CODE]),
    default=_REPLIES,
    show_default=True,
    help="What the files hold; transcripts are also found below directories.",
)
@click.option(
    "--at", metavar="TIME", help="Date replies that carry no time with this one (ISO 8601)."
)
@click.option("--service", help="The service that was called, whatever the replies say.")
@click.option("--operation", help="The operation, whatever the replies say.")
@click.option("--job", "job_id", help="Record the calls for this job.")
@click.option("--batch", "batch_id", help="Record the calls for this batch.")
@click.option("--pr", "github_pr", type=click.IntRange(1, 10**12), help="... this pull request.")
@click.option("--user", "user_id", help="... this user.")
@click.option("--conversation", "conversation_id", help="... this conversation.")
@click.option("--environment", help="... this environment.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def command(
    files: tuple[str, ...],
    form: str,
    at: str | None,
    service: str | None,
    operation: str | None,
    as_json: bool,
    **attributes: Any,
) -> int:
    """Record the calls of files of replies; "-" is standard input, .gz is unpacked.

    A file holds JSON lines (replies as the service sent them, envelopes with url and body or
    stream, batch outputs of OpenAI and Anthropic), or one reply, or an array of replies. Importing
    a file again changes nothing. A line that is no reply is reported and the rest goes in; the
    exit code is 1 then.

    With --format claude-code a file is a transcript of Claude Code, and a directory stands for all
    transcripts below it: receipt-usage import --format claude-code ~/.claude/projects
    """
    time = iso_time("--at", at) if at is not None else None
    from receipt_dynamo import StoreError
    from receipt_label.cli.opening import open_client
    from receipt_label.tracker import AIUsageTracker

    bad_lines = _BadLines()
    tallies: list[FileTally] = []
    given = {name: value or None for name, value in attributes.items()}
    with open_client() as client:
        before = _calls(client)
        tracker = AIUsageTracker(client, strict=True)
        settings = {"service": service, "operation": operation, "at": time, "on_bad": bad_lines.add}
        try:
            with tracker.context(**given):
                if form == _CLAUDE_CODE:
                    _import_transcripts(tracker, files, tallies, bad_lines, settings)
                else:
                    _import_replies(tracker, files, tallies, bad_lines, settings)
            take_in(client)
        except StoreError:
            note(f"kept in the spool for the next command: {counted(client.pending(), 'record')}")
            raise
        new = _calls(client) - before
        unpriced = _calls(client, unpriced=True)
    _say(tallies, new, unpriced, what="reply" if form == _REPLIES else "call")
    if as_json:
        summary = _as_json(tallies, bad_lines.shown, new, unpriced)
        if form == _CLAUDE_CODE:
            summary["uses"] = dict(sorted(_uses(tallies).items()))
        write_json(summary)
    return 0 if all(tally.is_fine for tally in tallies) else 1


class _BadLines:
    """Reports bad lines on standard error; of each file the first few, then how many more."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []
        self._in_file = 0

    def add(self, place: str, reason: str) -> None:
        self._in_file += 1
        if self._in_file <= _BAD_LINES_SHOWN:
            self.shown.append({"place": place, "reason": reason})
            note(f"{place}: {reason}")

    def end_of_file(self) -> None:
        if self._in_file > _BAD_LINES_SHOWN:
            note(f"... and {self._in_file - _BAD_LINES_SHOWN:,} more bad lines")
        self._in_file = 0


def _import_replies(
    tracker: AIUsageTracker,
    files: tuple[str, ...],
    tallies: list[FileTally],
    bad_lines: _BadLines,
    settings: dict[str, Any],
) -> None:
    from receipt_label.importers.importer import FileTally
    from receipt_label.importers.replies import ReplyImporter

    importer = ReplyImporter(tracker, **settings)
    tallies += [FileTally("standard input" if file == "-" else file) for file in files]
    for file, tally in zip(files, tallies, strict=True):
        _import_file(importer, file, tally, lambda source: bytes_bar(source.name, source.size))
        bad_lines.end_of_file()


def _import_transcripts(
    tracker: AIUsageTracker,
    names: tuple[str, ...],
    tallies: list[FileTally],
    bad_lines: _BadLines,
    settings: dict[str, Any],
) -> None:
    """Import the transcripts under ``names``, with one bar over all of them."""
    from receipt_label.importers.importer import FileTally
    from receipt_label.importers.transcript_importer import TranscriptImporter, find_transcripts

    def refuse(directory: str, reason: str) -> None:
        tallies.append(FileTally(directory, fault=reason))
        note(f"{directory}: {reason}")

    importer = TranscriptImporter(tracker, **settings)
    files = find_transcripts(names, refuse)
    sizes = {file: _size(file) for file in files}
    done = 0
    with bytes_bar(counted(len(files), "transcript"), sum(sizes.values())) as tell:
        for file in files:
            tally = FileTally("standard input" if file == "-" else file)
            tallies.append(tally)
            _import_file(importer, file, tally, _share_of(tell, done))
            bad_lines.end_of_file()
            done += sizes[file]
        importer.finish()


def _share_of(
    tell: _Tell | None, start: int
) -> Callable[[Source], AbstractContextManager[_Tell | None]]:
    """Return the bar of one file among many: its part of the one that is there."""

    def bar(_source: Source) -> AbstractContextManager[_Tell | None]:
        return nullcontext(None if tell is None else lambda position: tell(start + position))

    return bar


def _size(file: str) -> int:
    """Return how many bytes a file has; 0 for what has no size, or cannot be opened either."""
    try:
        return os.stat(file).st_size  # noqa: PTH116 - the text as the user gave it
    except (OSError, ValueError):
        return 0


def _import_file(
    importer: ReplyImporter | TranscriptImporter,
    file: str,
    tally: FileTally,
    bar: Callable[[Source], AbstractContextManager[_Tell | None]],
) -> None:
    """Import one file; what is wrong with it as a whole is one line, and the next one goes in."""
    from receipt_label.importers.source import SourceError, open_source

    try:
        with open_source(file, datetime.now(UTC)) as source, bar(source) as tell:
            importer.run(source, tally, tell)
    except SourceError as error:
        tally.fault = str(error)
        note(f"{tally.file}: {error}")


def _calls(client: UsageClient, *, unpriced: bool = False) -> int:
    """Return how many calls the whole store holds: all, or those without a price."""
    from receipt_dynamo import UsageQuery

    return client.summarize(UsageQuery(unpriced=unpriced))[0].calls


def _skipped(tallies: list[FileTally]) -> Counter[str]:
    return sum((tally.skipped for tally in tallies), Counter[str]())


def _uses(tallies: list[FileTally]) -> Counter[str]:
    return sum((tally.uses for tally in tallies), Counter[str]())


def _say(tallies: list[FileTally], new: int, unpriced: int, *, what: str) -> None:
    """Print the summary on standard error: what is new first, then where it is from."""
    parts = [_what_is_new(tallies, max(0, new), what)]
    skipped = _skipped(tallies)
    if skipped:
        reasons = ", ".join(
            f"{count:,} {_REASONS.get(reason, reason)}" for reason, count in sorted(skipped.items())
        )
        parts.append(f"{skipped.total():,} skipped ({reasons})")
    for noun, count in (
        ("bad line", sum(tally.bad for tally in tallies)),
        ("dropped record", sum(tally.dropped for tally in tallies)),
        ("unread file", sum(tally.fault is not None for tally in tallies)),
    ):
        if count:
            parts.append(counted(count, noun))
    if unpriced:
        have = "has" if unpriced == 1 else "have"
        parts.append(f"in the whole store {counted(unpriced, 'call')} {have} no price")
    note("; ".join(parts))
    for tally in tallies:
        _say_dated(tally)


def _what_is_new(tallies: list[FileTally], new: int, what: str) -> str:
    """Return by how many calls the store has grown, and what was read for them.

    They differ where a call was seen before: in the store, or twice in what was read.
    """
    recorded = sum(tally.recorded for tally in tallies)
    inside = sum(tally.inside for tally in tallies)
    uses = _uses(tallies)
    sources = [counted(recorded, what, "replies" if what == "reply" else None)] if recorded else []
    sources += [counted(count, f"{kind} use") for kind, count in sorted(uses.items())]
    if inside:
        sources.append(counted(inside, "further call") + " inside them")
    if not sources:
        return "nothing to record"
    read = recorded + inside + uses.total()
    before = ""
    if new == 0:
        before = ", seen before" if read == 1 else ", all seen before"
    elif new < read:
        before = f", of which {read - new:,} {'was' if read - new == 1 else 'were'} seen before"
    noun = "new call" if what == "reply" else "new record"
    told = counted(new, noun) if new else f"no {noun}s"
    return f"{told} from {', '.join(sources)}{before}"


def _say_dated(tally: FileTally) -> None:
    if not tally.dated_by_file or tally.file_time is None:
        return
    time = tally.file_time.isoformat().replace("+00:00", "Z")
    one = tally.dated_by_file == 1
    have = "has no time of its own and is" if one else "have no time of their own and are"
    dated = "dated now" if tally.is_piped else "dated by the file"
    line = f"{counted(tally.dated_by_file, 'reply', 'replies')} {have} {dated}: {time}."
    twice = tally.told_apart_by_time
    if twice:
        counts = "counts" if twice == 1 else "count"
        line += (
            f" {twice:,} without an id {counts} again when that changes; to keep it: --at {time}"
        )
    note(f"{tally.file}: {line}")


def _as_json(
    tallies: list[FileTally], bad_lines: list[dict[str, str]], new: int, unpriced: int
) -> dict[str, Any]:
    return {
        "recorded": sum(tally.recorded for tally in tallies),
        "inside": sum(tally.inside for tally in tallies),
        "new_calls_in_store": max(0, new),
        "skipped": dict(sorted(_skipped(tallies).items())),
        "bad": sum(tally.bad for tally in tallies),
        "dropped": sum(tally.dropped for tally in tallies),
        "dated_by_file": sum(tally.dated_by_file for tally in tallies),
        "unpriced_calls_in_store": unpriced,
        "files": [
            {
                "file": tally.file,
                "recorded": tally.recorded,
                "skipped": dict(sorted(tally.skipped.items())),
                "bad": tally.bad,
                "dropped": tally.dropped,
                "dated_by_file": tally.dated_by_file,
                "fault": tally.fault,
            }
            for tally in tallies
        ],
        "bad_lines": bad_lines,
    }
