"""Which metrics a command is about: the options that report and export share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from receipt_dynamo import UsageQuery

__all__ = ["GROUP_WORDS", "Selection", "iso_time", "selection_options", "split_words"]

GROUP_WORDS = (
    "day",
    "month",
    "service",
    "model",
    "operation",
    "job",
    "batch",
    "pr",
    "user",
    "conversation",
    "session",
    "tool",
    "skill",
    "subagent",
    "environment",
)
"""What ``--by`` may name."""

_Command = TypeVar("_Command", bound=Callable[..., Any])
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_RELATIVE = re.compile(r"(\d{1,6})([mhdw])")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")
_WHEN = (
    "a day (2026-11-21, 20261121, today, yesterday), a time (2026-11-21T20:00Z), "
    "or so long ago (30m, 12h, 7d, 2w)"
)
_OPTIONS = (
    click.option("--since", metavar="WHEN", help=f"From then on: {_WHEN}."),
    click.option("--until", metavar="WHEN", help="Up to then; a day is included as a whole."),
    click.option(
        "--timezone",
        metavar="NAME",
        default="UTC",
        show_default=True,
        help="IANA name of the timezone of days and of times without an offset.",
    ),
    click.option("--service", help="Only this service."),
    click.option("--model", help="Only this model (the one that served)."),
    click.option("--operation", help="Only this operation: chat, embeddings, ..."),
    click.option("--job", help="Only this job."),
    click.option("--batch", help="Only this batch."),
    click.option("--pr", type=click.IntRange(1, 10**12), help="Only this pull request."),
    click.option("--user", help="Only this user."),
    click.option("--conversation", help="Only this conversation."),
    click.option("--session", help="Only this session of an agent."),
    click.option("--tool", help="Only this tool."),
    click.option("--skill", help="Only this skill."),
    click.option("--subagent", help="Only this subagent."),
    click.option("--environment", help="Only this environment."),
)


def selection_options(command: _Command) -> _Command:
    """Add the options of a Selection to a command, which takes them as ``**chosen``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen metrics, and the timezone in which their days are told."""

    query: UsageQuery
    timezone: str

    @classmethod
    def of(
        cls,
        now: datetime,
        *,
        since: str | None,
        until: str | None,
        timezone: str,
        service: str | None,
        model: str | None,
        operation: str | None,
        job: str | None,
        batch: str | None,
        pr: int | None,
        user: str | None,
        conversation: str | None,
        session: str | None,
        tool: str | None,
        skill: str | None,
        subagent: str | None,
        environment: str | None,
    ) -> Selection:
        """Return the selection of the options. Raises click.BadParameter (exit code 2)."""
        from receipt_dynamo import UsageQuery, load_timezone

        try:
            zone = load_timezone(timezone)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--timezone") from None
        start = None if since is None else _moment("--since", since, zone, now)
        end = None if until is None else _moment("--until", until, zone, now, end=True)
        if start is not None and end is not None and start >= end:
            raise click.BadParameter(
                f"nothing lies between {since} and {until}", param_hint="--until"
            )
        query = UsageQuery(
            since=start,
            until=end,
            service=service.strip().lower() if service else None,
            model=model,
            operation=operation,
            job_id=job,
            batch_id=batch,
            github_pr=pr,
            user_id=user,
            conversation_id=conversation,
            session_id=session,
            tool=tool,
            skill=skill,
            subagent=subagent,
            environment=environment,
        )
        return cls(query, timezone)


def _moment(
    option: str, text: str, zone: ZoneInfo, now: datetime, *, end: bool = False
) -> datetime:
    """Return the time that ``text`` names; of a day its beginning, or as ``end`` the next day's."""
    text = text.strip()
    try:
        relative = _RELATIVE.fullmatch(text)
        if relative:
            return now - timedelta(**{_UNITS[relative[2]]: int(relative[1])})
        day = _day(text, now.astimezone(zone).date())
        if day is not None:
            return datetime.combine(day + timedelta(days=end), time.min, zone)
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        moment.astimezone(now.tzinfo)  # refuses what no timezone can tell
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no time. Allowed: {_WHEN}", param_hint=option
        ) from None
    return moment


def _day(text: str, today: date) -> date | None:
    if text == "today":
        return today
    if text == "yesterday":
        return today - timedelta(days=1)
    return date.fromisoformat(text) if _DAY.fullmatch(text) else None


def iso_time(option: str, text: str) -> datetime:
    """Return an ISO 8601 time, UTC where it has no offset. Raises click.BadParameter."""
    from datetime import UTC

    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no time. Allowed: ISO 8601, such as 2026-11-21T20:00:00Z",
            param_hint=option,
        ) from None


def split_words(option: str, text: str) -> tuple[str, ...]:
    """Return the words of a comma list. Raises click.BadParameter for an unknown one."""
    words = tuple(word.strip().lower() for word in text.split(",") if word.strip())
    allowed = f"Allowed: {', '.join(GROUP_WORDS)}"
    for word in words:
        if word not in GROUP_WORDS:
            raise click.BadParameter(f"unknown word {word!r}. {allowed}", param_hint=option)
    if len(set(words)) != len(words):
        raise click.BadParameter(f"a word is named twice: {text}", param_hint=option)
    if not words:
        raise click.BadParameter(f"name at least one word. {allowed}", param_hint=option)
    return words
