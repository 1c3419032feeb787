"""``receipt-usage prices``: what a model costs, and where the price is from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from receipt_label.cli.output import note, write_json
from receipt_label.cli.selection import iso_time

if TYPE_CHECKING:
    from receipt_label.pricing import PriceBook, PriceEntry, UnitRate

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
    entries = _book().explain(model, service, moment)
    if as_json:
        write_json([_entry_json(entry) for entry in entries])
    elif entries:
        _print_entries(entries)
    if not entries:
        where = f" of {service}" if service else ""
        note(
            f"no price is known for {model!r}{where}. See: receipt-usage prices list; "
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
    from receipt_label.cli.tables import Column, print_table

    columns = [Column("service"), Column("model"), Column("source"), Column("for")]
    columns += [Column("USD", figures=True), Column("per"), Column("in force")]
    rows = [row for entry in entries for row in _rows(entry)]
    print_table(columns, rows)
    for remark in dict.fromkeys(entry.note for entry in entries if entry.note):
        note(remark)


def _rows(entry: PriceEntry) -> list[list[Any]]:
    """Return a line for each rate and tier; what an entry says once stands on its first line."""
    shared = [entry.service, entry.model, entry.source, _conditions(entry)]
    figures = [line for rate in entry.rates for line in _rate_lines(rate)]
    if not figures:
        figures = [[None, _multiplied(entry)]]
    period = _period(entry)
    return [
        [*(shared if first else [""] * len(shared)), *figure, period if first else ""]
        for first, figure in ((index == 0, line) for index, line in enumerate(figures))
    ]


def _rate_lines(rate: UnitRate) -> list[list[Any]]:
    per = f"{_TIMES.get(rate.per, f'{rate.per:,}')} {rate.unit}".strip()
    lines: list[list[Any]] = [[rate.usd, per]]
    lines += [[usd, f"... above {above:,} input tokens"] for above, usd in rate.tiers]
    return lines


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
