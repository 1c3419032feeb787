"""``receipt-usage prices``: what a model costs, and where the price is from."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

from receipt_label.cli.output import called, clean, note, write_json
from receipt_label.cli.selection import iso_time

if TYPE_CHECKING:
    from receipt_label.pricing import PriceBook, PriceEntry

__all__ = ["command"]

_ONE = 1
_TIMES = {1: "", 1_000: "1k", 1_000_000: "1M"}


@click.group(name="prices")
def command() -> None:
    """Show what a model costs, and where the price is from."""


@command.command(name="show")
@click.argument("model")
@click.option("--service", help="Only as sold by this service: openai, aws, ...")
@click.option("--at", metavar="TIME", help="The prices in force then (ISO 8601). [default: now]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; money as decimal strings.")
def show(model: str, service: str | None, at: str | None, as_json: bool) -> int:
    """Show the prices of MODEL, the one that applies first; variants (batch, priority) follow."""
    moment = iso_time("--at", at) if at is not None else datetime.now(UTC)
    book = _book()
    entries = book.explain(model, service, moment)
    if as_json:
        write_json([_entry_json(entry) for entry in entries])
    elif entries:
        _print_entries(entries)
    if not entries:
        where = f" of {service}" if service else ""
        rules = dict.fromkeys(
            "any service" if rule.service == "*" else rule.service
            for rule in book.models()
            if rule.model == "*" and service is None
        )
        any_model = f" (there are rules for any model of {', '.join(rules)})" if rules else ""
        note(
            f"no price is known for {model!r}{where}{any_model}. See: {called('prices list')}; "
            "a price file (RECEIPT_USAGE_PRICES) can name one"
        )
        return 1
    return 0


@command.command(name="list")
@click.option("--service", help="Only the models of this service.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(service: str | None, as_json: bool) -> int:
    """List every model that has a price, the user's own prices first."""
    models = _book().models(service)
    if as_json:
        names = ("service", "model", "source", "version", "note")
        write_json([{name: getattr(model, name) for name in names} for model in models])
    elif models:
        from receipt_label.cli.tables import Column, print_table

        print_table(
            [Column("service"), Column("model"), Column("source")],
            [[model.service, model.model, model.source] for model in models],
        )
    if not models:
        note(f"no model of {service!r} has a price" if service else "no model has a price")
        return 1
    return 0


def _book() -> PriceBook:
    from receipt_label.cli.opening import read_settings
    from receipt_label.pricing import PriceBook

    return PriceBook.load(read_settings().prices)


def _entry_json(entry: PriceEntry) -> dict[str, Any]:
    return {
        "service": entry.service,
        "model": entry.model,
        "source": entry.source,
        "version": entry.version,
        "when": dict(entry.when),
        "effective_from": _iso(entry.effective_from),
        "effective_until": _iso(entry.effective_until),
        "daily": [time.isoformat() for time in entry.daily] if entry.daily else None,
        "multiplier": _money(entry.multiplier),
        "batch_multiplier": _money(entry.batch_multiplier),
        "rates": [
            {
                "unit": rate.unit,
                "usd": _money(rate.usd),
                "per": rate.per,
                "tiers": [{"above": above, "usd": _money(usd)} for above, usd in rate.tiers],
            }
            for rate in entry.rates
        ],
        "note": entry.note,
    }


def _print_entries(entries: tuple[PriceEntry, ...]) -> None:
    """Print each model's name once, its prices indented below, and the numbered notes last."""
    notes: dict[str, int] = {}
    for (heading, source), group in groupby(entries, key=lambda e: (_heading(e), e.source)):
        prices = list(group)
        numbers = [
            notes.setdefault(entry.note, len(notes) + 1) if entry.note else None for entry in prices
        ]
        marks = ["" if number is None else f" [{number}]" for number in numbers]
        if heading != _heading(entries[0]) or source != entries[0].source:
            print()
        print(clean(f"{heading}, from {source}{marks[0]}"))
        _print_prices(prices, ["", *marks[1:]])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for remark, number in notes.items():
        label = f"[{number}] "
        print()
        print(fill(clean(remark), width, initial_indent=label, subsequent_indent=" " * len(label)))


def _heading(entry: PriceEntry) -> str:
    of = "any service" if entry.service == "*" else entry.service
    if entry.is_for_any_model:
        return f"rule for any model of {of}"
    return f"{entry.model} of {of}"


def _print_prices(prices: list[PriceEntry], marks: list[str]) -> None:
    """Print a line for each rate and tier; what a price is for, and since when, above them."""
    from receipt_label.cli.tables import aligned

    lines = [_lines(entry) for entry in prices]
    amounts = iter(aligned([usd for of_entry in lines for usd, _ in of_entry if usd is not None]))
    for entry, of_entry, mark in zip(prices, lines, marks, strict=True):
        about = ", ".join(filter(None, (_conditions(entry), _period(entry))))
        if about or mark:
            print(clean(f"  {about or 'also'}{mark}"))
        for usd, text in of_entry:
            print(clean(f"    {text}" if usd is None else f"    {next(amounts)}  {text}"))


def _lines(entry: PriceEntry) -> list[tuple[Decimal | None, str]]:
    """Return the amounts of an entry, each with what it is for."""
    lines: list[tuple[Decimal | None, str]] = []
    for rate in entry.rates:
        per = f"USD per {_TIMES.get(rate.per, f'{rate.per:,}')}".rstrip()
        lines.append((rate.usd, f"{per} {rate.unit}"))
        lines += [(usd, f"USD above {above:,} input tokens") for above, usd in rate.tiers]
    return lines or [(None, _multiplied(entry))]


def _multiplied(entry: PriceEntry) -> str:
    if entry.source == "declared_free":
        return "free"
    if entry.multiplier == _ONE and entry.batch_multiplier is None:
        return "listed without a rate"
    batch = f", batch x {_money(entry.batch_multiplier)}" if entry.batch_multiplier else ""
    return f"list price x {_money(entry.multiplier)}{batch}"


def _conditions(entry: PriceEntry) -> str:
    parts = [f"{key} {value}" for key, value in entry.when.items()]
    if entry.daily:
        parts.append("-".join(f"{time:%H:%M}" for time in entry.daily) + " UTC")
    if entry.rates and entry.multiplier != _ONE:
        parts.append(f"x {_money(entry.multiplier)}")
    return ", ".join(parts)


def _period(entry: PriceEntry) -> str:
    since, until = entry.effective_from, entry.effective_until
    start = "" if since is None else f"from {since:%Y-%m-%d}"
    end = "" if until is None else f"until {until:%Y-%m-%d}"
    return " ".join(filter(None, (start, end)))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _money(amount: Any) -> str | None:
    from receipt_dynamo import plain_decimal

    return None if amount is None else plain_decimal(amount)
