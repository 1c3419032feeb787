"""``receipt-usage report``: calls, tokens and cost by any combination of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from typing import TYPE_CHECKING, Any

import click

from receipt_label.cli.output import called, counted, note, write_csv, write_json
from receipt_label.cli.selection import GROUP_WORDS, Selection, selection_options, split_words

if TYPE_CHECKING:
    from receipt_dynamo import DroppedSummary, UsageClient, UsageSummary

__all__ = ["command"]

_DEFAULT_BY = ("service", "model")
_UNPRICED_BY = ("service", "model", "operation")
_EXACT = Context(prec=400, traps=[Inexact])

_SUMS = {
    "calls": "calls",
    "input_tokens": "input",
    "cached_input_tokens": "cached",
    "output_tokens": "output",
    "cost_usd": "cost USD",
    "unpriced_calls": "unpriced",
    "errors": "errors",
}
"""The sums of a row: name in JSON and CSV, and heading in the table."""

_SHOWN_IF_ANY = ("cached_input_tokens", "unpriced_calls", "errors")
"""Sums that the table leaves out where they are zero in every row; JSON and CSV never do."""

_NO = {"pr": "PR", "unpriced_reason": "reason"}
"""Words of a group as they are said of what has none, where that is not the word itself."""

_COST_DECIMALS = 8
_MENDABLE = ("unknown_model", "unknown_unit", "price_error", "not_priced")
"""Reasons for which a price in a price file can help."""

_UNPRICED_SUMS = ("calls", "input_tokens", "cached_input_tokens", "output_tokens", "errors")


@dataclass(frozen=True, slots=True)
class _Report:
    """What is to be shown: rows of group values and sums, the total, and what was lost."""

    words: tuple[str, ...]
    sums: Sequence[str]
    groups: list[UsageSummary]
    dropped: DroppedSummary

    def group_values(self, summary: UsageSummary) -> list[str | int | None]:
        return [summary.group[word] for word in self.words]

    def total(self) -> dict[str, Any]:
        """Return the sums over all rows, exact; the cost is None where no call is priced."""
        total: dict[str, Any] = {name: 0 for name in self.sums if name != "cost_usd"}
        for name in total:
            total[name] = sum(getattr(group, name) for group in self.groups)
        if "cost_usd" in self.sums:
            costs = [group.cost_usd for group in self.groups if group.cost_usd is not None]
            total["cost_usd"] = _add(costs) if costs else None
        return {name: total[name] for name in self.sums}


def _add(amounts: Sequence[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


@click.command(name="report")
@click.option(
    "--by",
    metavar="WORDS",
    help=f"Group by these words, separated by commas: {', '.join(GROUP_WORDS)}. "
    "[default: service,model]",
)
@click.option("--unpriced", is_flag=True, help="List the calls without a price, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; money as decimal strings.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, safe to open in a spreadsheet.")
@selection_options
def command(
    by: str | None, unpriced: bool, as_json: bool, as_csv: bool, **chosen: Any
) -> None:  # click passes options by name
    """Show calls, tokens and cost of what is recorded, what is still in the spool included.

    Without --since everything. A cost sums the priced calls; a call without a price is never
    counted as free, it stands under "unpriced".
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other", click.get_current_context())
    words = split_words("--by", by) if by is not None else None
    selection = Selection.of(datetime.now(UTC), **chosen)
    from receipt_label.cli.opening import (
        note_dead_letters,
        note_other_destinations,
        open_client,
    )
    from receipt_label.cli.progress import take_in_for_report

    with open_client() as client:
        take_in_for_report(client)
        report = _unpriced(client, selection, words) if unpriced else _all(client, selection, words)
        settings = client.settings
        is_empty = not report.groups and _is_empty(client)
    if as_json:
        write_json(_as_json(report))
    elif as_csv:
        write_csv([*report.words, *report.sums], _csv_rows(report))
        _say_dropped(report.dropped, to_stderr=True)
    else:
        _print(report)
        if is_empty:
            note(
                f"No calls are recorded in {settings.usage_dir} (RECEIPT_USAGE_DIR names another)."
            )
        elif not report.groups:
            nothing = "No calls are recorded for this selection."
            note("Every call has a price." if unpriced else nothing)
    if not unpriced:
        _say_unpriced(report.total()["unpriced_calls"])
    elif not as_json:
        _say_mendable(report)
        _say_without_usage(report)
    note_dead_letters(settings)
    note_other_destinations(settings)


def _all(client: UsageClient, selection: Selection, words: tuple[str, ...] | None) -> _Report:
    chosen = words or _DEFAULT_BY
    groups = client.summarize(selection.query, chosen, selection.timezone)
    return _Report(chosen, tuple(_SUMS), groups, client.dropped(selection.query))


def _unpriced(client: UsageClient, selection: Selection, words: tuple[str, ...] | None) -> _Report:
    chosen = (*(words or _UNPRICED_BY), "unpriced_reason")
    query = replace(selection.query, unpriced=True)
    groups = client.summarize(query, chosen, selection.timezone)
    return _Report(chosen, _UNPRICED_SUMS, groups, client.dropped(selection.query))


def _is_empty(client: UsageClient) -> bool:
    from receipt_dynamo import UsageQuery

    return client.summarize(UsageQuery())[0].calls == 0


def _as_json(report: _Report) -> dict[str, Any]:
    return {
        "rows": [
            {
                **dict(zip(report.words, report.group_values(group), strict=True)),
                **{name: _plain(getattr(group, name)) for name in report.sums},
            }
            for group in report.groups
        ],
        "total": {name: _plain(value) for name, value in report.total().items()},
        "dropped": {
            "count": report.dropped.count,
            "input_tokens": report.dropped.input_tokens,
            "output_tokens": report.dropped.output_tokens,
            "cost_usd": _plain(report.dropped.cost_usd),
            "by_reason": dict(report.dropped.by_reason),
        },
    }


def _plain(value: int | Decimal | None) -> int | str | None:
    from receipt_dynamo import plain_decimal

    return plain_decimal(value) if isinstance(value, Decimal) else value


def _csv_rows(report: _Report) -> list[list[Any]]:
    return [
        [*report.group_values(group), *(_plain(getattr(group, name)) for name in report.sums)]
        for group in report.groups
    ]


def _print(report: _Report) -> None:
    """Print the table, and below it what is not to be read off its figures."""
    from receipt_label.cli.tables import Column, print_table

    if report.groups:
        total = report.total()
        sums = [name for name in report.sums if total[name] or name not in _SHOWN_IF_ANY]
        titles: Mapping[str, str] = {"unpriced_reason": "reason"}
        columns = [Column(titles.get(word, word)) for word in report.words]
        columns += [
            Column(_SUMS[name], True, _COST_DECIMALS if name == "cost_usd" else None)
            for name in sums
        ]
        rows = [
            [
                *_shown(report.words, report.group_values(group)),
                *(getattr(group, name) for name in sums),
            ]
            for group in report.groups
        ]
        label = ["total", *[""] * (len(report.words) - 1)]
        if print_table(columns, rows, [*label, *(total[name] for name in sums)]):
            print(f"costs are rounded to {_COST_DECIMALS} decimals; exact in --json")
    _say_dropped(report.dropped, to_stderr=False)


def _shown(words: Sequence[str], values: Sequence[str | int | None]) -> list[str]:
    """Return the names of a row; what carries none of a word is named so, not left blank."""
    return [
        f"(no {_NO.get(word, word)})" if value is None else str(value)
        for word, value in zip(words, values, strict=True)
    ]


def _say_dropped(dropped: DroppedSummary, *, to_stderr: bool) -> None:
    """Say what was lost, whenever anything was: a total must not look whole when it is not."""
    if not dropped.count:
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.by_reason.items())
    cost = "" if dropped.cost_usd is None else f", {_plain(dropped.cost_usd)} USD"
    line = (
        f"not in these figures, for they were lost: {counted(dropped.count, 'dropped record')} "
        f"({reasons}) with {dropped.input_tokens:,} input and {dropped.output_tokens:,} output "
        f"tokens{cost}. Losses are counted over all jobs: only filters by time, service and model "
        "apply to them"
    )
    if to_stderr:
        note(line)
    else:
        print(line)


def _say_unpriced(calls: int) -> None:
    if calls:
        note(
            f"not in the cost, for want of a price: {counted(calls, 'call')}. "
            f"See: {called('report --unpriced')}"
        )


def _say_mendable(report: _Report) -> None:
    """Say what a price file can do for the calls without a price, where it can do anything."""
    found = [group for group in report.groups if group.group["unpriced_reason"] in _MENDABLE]
    if found:
        calls = counted(sum(group.calls for group in found), "call")
        reasons = dict.fromkeys(str(group.group["unpriced_reason"]) for group in found)
        note(
            f"a price file (RECEIPT_USAGE_PRICES) can price {calls} ({', '.join(reasons)}): with "
            "a price they count once recorded or imported again. See: docs/prices.md"
        )


def _say_without_usage(report: _Report) -> None:
    """Say what brings the tokens of the commonest calls that come without them."""
    found = [group for group in report.groups if group.group["unpriced_reason"] == "no_usage"]
    if found:
        calls = counted(sum(group.calls for group in found), "call")
        note(
            f"no tokens are known of {calls} (no_usage): of OpenAI's streams they are with "
            "tracker.wrap(client, include_usage=True). See: docs/wrapping.md"
        )
