"""``receipt-usage doctor``: one line for everything that recording and reporting stand on."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import click

from receipt_label.cli.output import clean, note, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from receipt_dynamo import Finding

__all__ = ["command"]

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
        settings = read_settings()
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
            findings.append(Finding("ok", "price file", str(file)))
    except (PriceFileError, OSError) as error:
        findings.append(Finding("fault", "price file", str(error)))
        book = PriceBook.load(None)
    today = datetime.now(UTC).date()
    versions = dict.fromkeys(model.version for model in book.models())
    findings += [
        Finding("ok", "prices", f"{version}{_age(version, today)}") for version in versions
    ]
    return findings


def _age(version: str, today: date) -> str:
    """Return how old a version is that ends in its date."""
    try:
        days = (today - date.fromisoformat(version.rsplit(maxsplit=1)[-1])).days
    except ValueError:
        return ""
    return f", {max(days, 0):,} days old"
