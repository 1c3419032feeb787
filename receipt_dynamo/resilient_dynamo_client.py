"""ResilientDynamoClient: records that reach their DynamoDB table, whatever it does meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from receipt_dynamo.drainer import start_thread
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.files import secure_directory
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.table_delivery import TableDelivery
from receipt_dynamo.usage_client import UsageClient
from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.circuit_breaker import CircuitState, CircuitTransition
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = ["ResilientDynamoClient"]

_log = safe_logger("receipt_dynamo.client")


class ResilientDynamoClient(UsageClient):
    """The client of one table. Records as every ``UsageClient`` does; thread-safe, fork-safe.

    What is recorded lies in the spool until the table has acknowledged it. One process of all that
    share the spool delivers, in batches, as fast as the table takes them; it waits out throttling
    and outages, isolates a record that the table refuses, and keeps everything while credentials,
    permissions or the table itself are missing.

    ``region`` and ``endpoint_url`` default to the environment's; ``spool_dir`` is the directory
    below which spools lie, in place of ``RECEIPT_USAGE_DIR``. ``overrides`` are any other
    ``Settings``, by name. Asks nothing of AWS before the first delivery or question. Raises
    ConfigurationError for settings that cannot be right.
    """

    def __init__(
        self,
        table_name: str | None = None,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        spool_dir: str | Path | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        chance: Chance = system_chance,
        **overrides: Any,
    ) -> None:
        chosen = _settings(
            settings,
            table_name=table_name,
            region=region,
            endpoint_url=endpoint_url,
            usage_dir=None if spool_dir is None else Path(spool_dir).absolute(),
            **overrides,
        )
        if chosen.table_name is None:
            raise ConfigurationError(
                "no table is named. Set DYNAMODB_TABLE_NAME, or name it: "
                "ResilientDynamoClient('my-table')"
            )
        time = clock or SystemClock()
        table = DynamoClient(
            chosen.table_name,
            region=chosen.region,
            endpoint_url=chosen.endpoint_url,
            retention_days=chosen.retention_days,
            connections=max(10, chosen.senders + 1),
            clock=time,
        )
        interruption = _Interruption(chosen.destination)
        directory = secure_directory(
            secure_directory(secure_directory(chosen.usage_dir) / "spool") / chosen.destination
        )
        delivery = TableDelivery(
            directory,
            table,
            time,
            senders=chosen.senders,
            start_thread=start_thread,
            chance=chance,
            listeners=[interruption],
        )
        super().__init__(chosen, table, clock=time, delivery=delivery, needs_lead=True)
        interruption.writer = self._pipeline.spool.writer


class _Interruption:
    """Says that the table is gone or back, and seals what was spooled before it went.

    It does not know the client, which nobody but its user keeps alive.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self.writer: SpoolWriter | None = None

    def __call__(self, transition: CircuitTransition) -> None:
        if transition.after is CircuitState.CLOSED:
            _log.warning("delivery to %s goes on", self._destination)
        elif transition.before is CircuitState.CLOSED:
            _log.warning(
                "delivery to %s is interrupted, recording goes on: %s",
                self._destination,
                transition.reason,
            )
            if self.writer is not None:
                self.writer.seal()


def _settings(settings: Settings | None, **explicit: Any) -> Settings:
    given = {name: value for name, value in explicit.items() if value is not None}
    if settings is None:
        return Settings.from_env(**given)
    try:
        return replace(settings, **given)
    except TypeError as error:
        raise ConfigurationError(f"unknown setting: {error}") from None
