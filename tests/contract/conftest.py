"""The stores that the contract is held against: they must not be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from receipt_dynamo import UsageStore
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support.dynamodb import access_key, drop_table

_tables = count(1)


@pytest.fixture(params=["sqlite", "dynamodb", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UsageStore]:
    """An empty store of each kind: the embedded one, a table of AWS's own engine, one of moto's."""
    if request.param == "sqlite":
        yield SqliteStore(tmp_path / "usage.db")
    else:
        yield request.getfixturevalue(f"{request.param}_table")


@contextmanager
def _table(endpoint_url: str | None) -> Iterator[DynamoClient]:
    with DynamoClient(f"usage-{next(_tables)}", endpoint_url=endpoint_url) as client:
        client.create_table()
        yield client
        drop_table(client)


@pytest.fixture
def dynamodb_table(dynamodb: str) -> Iterator[DynamoClient]:
    """An empty table of DynamoDB Local."""
    with _table(dynamodb) as client:
        yield client


@pytest.fixture
def moto_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoClient]:
    """An empty table of moto, which pretends to be DynamoDB within this process."""
    from moto import mock_aws

    for name, value in access_key("moto").items():
        monkeypatch.setenv(name, value)
    with mock_aws(), _table(None) as client:
        yield client
