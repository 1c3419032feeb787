"""``receipt-usage log``: what an agent did, one use or one action, from a shell or a hook.

It runs at every use of a tool: it appends to the spool and ends. Nothing of prices is loaded.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from receipt_label.cli.output import note, write_json

if TYPE_CHECKING:
    from receipt_dynamo import PutResult
    from receipt_label.uses import Kind, Use

__all__ = ["command"]

_HOOK = "--hook"
_TAKE_IN_FROM = 200  # processes that each left a file; a report takes in any number
_TAKE_IN_SECONDS = 1.0
_OF_USE = ("outcome", "error", "duration_ms", "metadata", "tool", "skill", "subagent")
_ATTRIBUTES = ("job_id", "batch_id", "github_pr", "user_id", "conversation_id", "environment")


class _Log(click.Command):
    """As a hook it never breaks its caller, whom an exit code of 2 would stop (Claude Code)."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        is_hook = any(arg.partition("=")[0] == _HOOK for arg in args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if not is_hook:
                raise
            note(f"error: {error.format_message()}")
            raise click.exceptions.Exit(0) from None


def _pairs(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise click.BadParameter(f"{text!r} is no KEY=VALUE")
        pairs[key] = value
    return pairs


def _money(_context: click.Context, _option: click.Parameter, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise click.BadParameter(f"{text!r} is no amount of USD, such as 0.0125") from None


@click.command(name="log", cls=_Log)
@click.argument("kind", type=click.Choice(["tool", "skill", "subagent", "action"]), required=False)
@click.argument("name", required=False)
@click.option(
    _HOOK,
    "agent",
    type=click.Choice(["claude-code"]),
    help="Read the input of this agent's hook from standard input; always exit with 0.",
)
@click.option("--session", "session_id", help="The session it belongs to. [default: a new one]")
@click.option("--duration-ms", type=click.FloatRange(min=0), help="How long it took.")
@click.option("--outcome", help="success, failure, or a word of your own. [default: success]")
@click.option("--error", help="What went wrong, in a word; it is a failure then.")
@click.option("--cost", metavar="USD", callback=_money, help="What it cost. [default: nothing]")
@click.option(
    "--metadata", metavar="KEY=VALUE", multiple=True, callback=_pairs, help="As often as you like."
)
@click.option("--tool", help="The tool that did it.")
@click.option("--skill", help="The skill that it was done for.")
@click.option("--subagent", help="The subagent that did it.")
@click.option("--job", "job_id", help="Record it for this job.")
@click.option("--batch", "batch_id", help="... this batch.")
@click.option("--pr", "github_pr", type=click.IntRange(1, 10**12), help="... this pull request.")
@click.option("--user", "user_id", help="... this user.")
@click.option("--conversation", "conversation_id", help="... this conversation.")
@click.option("--environment", help="... this environment.")
@click.option("--at", metavar="TIME", help="When it was (ISO 8601). [default: now]")
@click.option("--request-id", help="With --at: the same record again, which counts once.")
@click.option("--json", "as_json", is_flag=True, help="Print what was recorded as JSON.")
def command(
    kind: Kind | None,
    name: str | None,
    agent: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Record one use of a tool, skill or subagent, or one action.

    \b
        receipt-usage log tool web_search --session s1 --duration-ms 812 --cost 0.01
        receipt-usage log action deploy --outcome failure --metadata version=1.4.2
        receipt-usage log --hook claude-code < hook.json

    It is appended to the spool; nothing waits for a store. Exit code 1 where it was dropped.
    """
    if agent is not None:
        return _log_hook(kind, options)
    if kind is None or not name:
        raise click.UsageError(
            "say what to log: tool, skill, subagent or action, and its name",
            click.get_current_context(),
        )
    return _log_use(kind, name, options, as_json)


def _log_use(kind: Kind, name: str, options: dict[str, Any], as_json: bool) -> int:
    """Record what the options say."""
    from receipt_dynamo import PutResult, mint_request_id
    from receipt_label.cli.selection import iso_time
    from receipt_label.uses import Use

    at = options.pop("at")
    use = Use(
        kind=kind,
        name=name,
        timestamp=iso_time("--at", at) if at is not None else None,
        request_id=options.pop("request_id") or mint_request_id(),
        session_id=options.pop("session_id") or f"session-{mint_request_id()}",
        cost_usd=options.pop("cost"),
        **{field: options.pop(field) for field in _OF_USE},
    )
    result = _record(use, options)
    if as_json:
        write_json(
            {
                "result": result.name,
                "service": kind,
                "model": name,
                "request_id": use.request_id,
                "session_id": use.session_id,
            }
        )
    return 1 if result is PutResult.DROPPED else 0


def _log_hook(kind: str | None, options: dict[str, Any]) -> int:
    """Record what a hook was called for. Whatever goes wrong is a line on standard error."""
    try:
        _read_and_record(kind, options)
    except Exception as error:  # the agent goes on, whatever it is
        note(f"error: not recorded: {' '.join(str(error).split()) or type(error).__name__}")
    return 0


def _read_and_record(kind: str | None, options: dict[str, Any]) -> None:
    from receipt_label.importers.claude_hook import read_hook

    if kind is not None:
        raise ValueError(f"{_HOOK} reads what to log from standard input: leave out {kind!r}")
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    use = read_hook(sys.stdin.buffer.read())
    if use is not None:
        given = {name: options[name] for name in _ATTRIBUTES}
        _record(replace(use, metadata={**use.metadata, **options["metadata"]}), given)


def _record(use: Use, attributes: dict[str, Any]) -> PutResult:
    """Append a use to the spool, and end without waiting for anybody."""
    from receipt_dynamo import open_usage_client
    from receipt_label.cli.opening import read_settings
    from receipt_label.usage_logger import tracker_of_uses

    client = open_usage_client(read_settings())
    result = tracker_of_uses(client).record(**use.fields(), **attributes)
    if client.settings.table_name is None and client.waiting_files() >= _TAKE_IN_FROM:
        client.close(_TAKE_IN_SECONDS)  # the embedded store takes in what many such calls left
    return result
