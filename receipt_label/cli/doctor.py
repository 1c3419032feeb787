"""``receipt-usage doctor``: one line for everything that recording and reporting stand on."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from receipt_label.cli.output import clean, note, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from receipt_dynamo import Finding

__all__ = ["command"]

_OLD_DAYS = 120
_DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")
_OWN_SERVICES = frozenset({"tool", "skill", "subagent", "action"})
"""Services that stand for no vendor, and that records name all the same."""

_MARKS = {"ok": "ok   ", "warn": "warn ", "fault": "FAULT"}


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> int:
    """Check versions, directory, file system, settings, store, spools and prices.

    Changes nothing. The exit code is 1 when a fault stops the recording or the reports.
    """
    findings = _findings()
    faults = sum(finding.mark == "fault" for finding in findings)
    if as_json:
        write_json(
            {
                "findings": [
                    {"mark": found.mark, "what": found.what, "detail": found.detail}
                    for found in findings
                ],
                "faults": faults,
            }
        )
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            detail = clean(finding.detail)
            print(f"{_MARKS[finding.mark]}  {clean(finding.what).ljust(width)}  {detail}")
    if faults:
        note(f"{faults} {'fault' if faults == 1 else 'faults'} found")
    return 1 if faults else 0


def _findings() -> list[Finding]:
    from receipt_dynamo import Finding, UsageError, inspect_environment
    from receipt_label.cli.opening import read_settings

    try:
        settings = read_settings(drain=None)
    except UsageError as error:
        return [Finding("fault", "settings", str(error)), *_prices(None)]
    return [*inspect_environment(settings), *_prices(settings.prices)]


def _prices(file: Path | None) -> list[Finding]:
    """Return the versions of the price data, and how old what is bundled is."""
    from receipt_dynamo import Finding
    from receipt_label.pricing import PriceBook, PriceFileError

    findings: list[Finding] = []
    try:
        book = PriceBook.load(file)
        if file is not None:
            findings += _price_file(file)
    except (PriceFileError, OSError) as error:
        findings.append(Finding("fault", "price file", str(error)))
        book = PriceBook.load(None)
    versions = dict.fromkeys(model.version for model in book.models())
    today = datetime.now(UTC).date()
    findings += [_price_data(version, today) for version in versions]
    return findings


def _price_file(file: Path) -> list[Finding]:
    """Return what is odd about a price file that can be read."""
    from receipt_dynamo import Finding
    from receipt_label.pricing import PriceBook
    from receipt_label.pricing.price_file import load_price_file
    from receipt_label.usage.address import SERVICES

    own = load_price_file(file)
    if not own.rules and not own.aliases:
        detail = f"{file} is empty: it prices nothing. See docs/prices.md for the form"
        return [Finding("warn", "price file", detail)]
    listed = PriceBook.load(None)
    named = [*(rule.service for rule in own.rules), *(service for service, _ in own.aliases)]
    known = {*(model.service for model in listed.models()), *SERVICES, *_OWN_SERVICES}
    unknown = [
        service
        for service in dict.fromkeys(named)
        if service not in {"*", *known} and not listed.models(service)  # by another name
    ]
    found = [
        Finding("warn", "price file", f"{file}: {_unknown_service(service, known)}")
        for service in unknown
    ]
    return found or [Finding("ok", "price file", str(file))]


def _unknown_service(service: str, known: set[str]) -> str:
    near = get_close_matches(service, known, n=1)
    if near:
        return f"no list knows the service {service!r}: did you mean {near[0]!r}?"
    return (
        f"no list knows the service {service!r}: right if calls are recorded under this very name"
    )


def _price_data(version: str, today: date) -> Finding:
    from receipt_dynamo import Finding

    if version.startswith("sha256:"):
        return Finding("ok", "prices", f"the price file's, {version}")
    if version.startswith("genai-prices"):
        return _aged(version, _newest_price(today), today)
    try:
        as_of = date.fromisoformat(version)
    except ValueError:
        return Finding("ok", "prices", version)
    return _aged("bundled prices per request", as_of, today)


def _aged(what: str, as_of: date | None, today: date) -> Finding:
    from receipt_dynamo import Finding

    if as_of is None:
        return Finding("ok", "prices", what)
    days = max((today - as_of).days, 0)
    detail = f"{what}, newest date in it {as_of}, {days:,} {'day' if days == 1 else 'days'} old"
    if days > _OLD_DAYS:
        return Finding("warn", "prices", f"{detail}: upgrade, models may be missing")
    return Finding("ok", "prices", detail)


def _newest_price(today: date) -> date | None:
    """Return the newest date, up to today, at which genai-prices says that a price began or was
    checked. Its data carries no date of its own."""
    from genai_prices.data_snapshot import get_snapshot

    newest: date | None = None
    for provider in get_snapshot().providers:
        for model in provider.models:
            prices = model.prices if isinstance(model.prices, list) else []
            starts = (getattr(price.constraint, "start_date", None) for price in prices)
            said = _DATE.findall(model.price_comments or "")
            for found in (*starts, *_dates(said)):
                if found is not None and found <= today and (newest is None or found > newest):
                    newest = found
    return newest


def _dates(texts: list[str]) -> list[date]:
    dates = []
    for text in texts:
        try:
            dates.append(date.fromisoformat(text))
        except ValueError:
            continue
    return dates
