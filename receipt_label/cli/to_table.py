"""``receipt-usage ship --to-table``: what was recorded without a table, brought into one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from receipt_label.cli.opening import open_client, read_settings
from receipt_label.cli.output import clean, counted, note, write_json
from receipt_label.cli.progress import records_bar, take_in

if TYPE_CHECKING:
    from receipt_dynamo import MigrationReport, RefusedMetric, Settings

__all__ = ["ship_to_table"]

_TRIES = 10  # a table that throttles is waited for
_NAMED = 20


def ship_to_table(table_name: str, *, as_json: bool) -> int:
    """Bring local spool and embedded store into a table; return the exit code.

    Raises UsageError.
    """
    from receipt_dynamo import DynamoClient, Migration

    settings = replace(read_settings(), table_name=table_name)
    client = DynamoClient(
        table_name,
        region=settings.region,
        endpoint_url=settings.endpoint_url,
        retention_days=settings.retention_days,
        tries=_TRIES,
    )
    with client:
        migration = Migration(settings, client)
        migration.waiting()  # a table that is not there is said before anything is done
        _take_in_the_spool(settings)
        with records_bar("shipping", migration.waiting()) as tell:
            report = migration.run(tell)
    _say(table_name, report)
    if as_json:
        write_json(
            {
                "table": table_name,
                "shipped": report.shipped,
                "shipped_before": report.before,
                "gaps": report.gaps,
                "refused": [_refused_as_json(refused) for refused in report.refused],
            }
        )
    return 1 if report.refused else 0


def _take_in_the_spool(settings: Settings) -> None:
    """Bring what was recorded without a table, and still waits, into the embedded store."""
    from receipt_dynamo import Environment

    local = replace(settings, table_name=None, environment=Environment.DEVELOPMENT)
    with open_client(local) as client:
        take_in(client)


def _say(table_name: str, report: MigrationReport) -> None:
    before = f"; {report.before:,} were there before" if report.before else ""
    lost = f", with {counted(report.gaps, 'record')} of losses" if report.gaps else ""
    note(f"{counted(report.shipped, 'record')} shipped to the table {table_name}{lost}{before}")
    for refused in report.refused[:_NAMED]:
        metric = refused.metric
        when = metric.timestamp.isoformat()
        note(f"refused: {metric.service} {metric.request_id} of {when}: {clean(refused.reason)}")
    if len(report.refused) > _NAMED:
        note(f"refused: {len(report.refused) - _NAMED:,} more")


def _refused_as_json(refused: RefusedMetric) -> dict[str, str]:
    metric = refused.metric
    return {
        "service": metric.service,
        "timestamp": metric.timestamp.isoformat(),
        "request_id": metric.request_id,
        "reason": refused.reason,
    }
