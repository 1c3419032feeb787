"""ClientManager: one of everything a process needs, made when used, closed when done."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from receipt_dynamo import (
    ConfigurationError,
    DynamoClient,
    ResilientDynamoClient,
    Settings,
    UsageClient,
)
from receipt_label import (
    AIUsageTracker,
    ClientConfig,
    ClientManager,
    client_manager,
    get_client_manager,
)
from tests.support import in_fork
from tests.support.vendor_server import VendorServer


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorServer]:
    """A server on this machine that both SDKs call, with keys that open nothing."""
    with VendorServer(own_ids=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "no-key")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "no-key")
        yield server


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has the process's manager to itself, and the user's keys are out of sight."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "USER_ID", "TRACK_AI_USAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RECEIPT_USAGE_DRAIN", "manual")
    monkeypatch.setattr(client_manager, "_manager", None)
    yield
    if client_manager._manager is not None:
        client_manager._manager.close()


def chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])


def message(client: anthropic.Anthropic) -> None:
    client.messages.create(
        model="claude-any", max_tokens=9, messages=[{"role": "user", "content": "x"}]
    )


# What is made


@pytest.mark.usefixtures("vendors")
def test_the_vendors_clients_are_the_sdks_own_and_already_wrapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each call is in the store once, under the user that the environment names."""
    monkeypatch.setenv("USER_ID", "pipeline")
    with ClientManager() as manager:
        assert isinstance(manager.openai, openai.OpenAI)
        assert isinstance(manager.anthropic, anthropic.Anthropic)
        with manager.usage_tracker.context(job_id="j"):
            chat(manager.openai)
            message(manager.anthropic)
        metrics = sorted(manager.dynamo.query(), key=lambda metric: metric.service)
    assert [metric.service for metric in metrics] == ["anthropic", "openai"]
    assert {(metric.job_id, metric.user_id) for metric in metrics} == {("j", "pipeline")}
    assert all(metric.cost_usd for metric in metrics)


@pytest.mark.usefixtures("vendors")
def test_clients_stay_bare_where_tracking_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """``TRACK_AI_USAGE=false``; what is recorded by hand is recorded all the same."""
    monkeypatch.setenv("TRACK_AI_USAGE", "false")
    with ClientManager() as manager:
        chat(manager.openai)
        assert list(manager.dynamo.query()) == []
        manager.usage_tracker.record(service="x", model="m", operation="o")
        assert len(list(manager.dynamo.query())) == 1


def test_nothing_is_made_before_it_is_used(tmp_path: Path) -> None:
    """No directory, no client, no key asked for."""
    with ClientManager() as manager:
        assert not (tmp_path / "usage").exists()
        assert repr(manager) == "<ClientManager nothing made yet>"
        assert manager.usage_tracker.client is manager.dynamo
        assert manager.usage_tracker is manager.usage_tracker
        assert repr(manager) == "<ClientManager dynamo, usage_tracker>"


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_missing_key_is_named_with_its_remedy(name: str) -> None:
    """When its client is first asked for; the others work without it."""
    variable = f"{name.upper()}_API_KEY"
    with ClientManager() as manager:
        with pytest.raises(ConfigurationError, match=f"{variable} is not set. Set it, or pass"):
            getattr(manager, name)
        manager.usage_tracker.record(service="x", model="m", operation="o")


def test_a_missing_sdk_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline installs the SDKs that it uses; one whose own import fails says so itself."""
    monkeypatch.setitem(sys.modules, "openai", None)
    config = ClientConfig.from_env(openai_api_key="no-key")
    with (
        ClientManager(config) as manager,
        pytest.raises(ConfigurationError, match="pip install openai"),
    ):
        _ = manager.openai


def test_keys_never_show() -> None:
    """Neither in a log line nor in a traceback."""
    config = ClientConfig.from_env({"OPENAI_API_KEY": "sk-secret", "ANTHROPIC_API_KEY": "sk-ant"})
    assert "sk-" not in repr(config)
    assert "sk-" not in repr(ClientManager(config))


# The environment's variables


TABLES = [
    ({"DYNAMODB_TABLE_NAME": "new"}, "new", False),
    ({"DYNAMODB_TABLE_NAME": "new", "DYNAMO_TABLE_NAME": "old"}, "new", False),
    ({"DYNAMODB_TABLE_NAME": "new", "DYNAMO_TABLE_NAME": "new"}, "new", False),
    ({"DYNAMODB_TABLE_NAME": "", "DYNAMO_TABLE_NAME": "old"}, "old", True),
    ({"DYNAMO_TABLE_NAME": "old"}, "old", True),
    ({}, None, False),
]


@pytest.mark.parametrize(("variables", "table", "deprecated"), TABLES)
def test_the_new_name_of_the_table_wins_and_the_old_one_warns(
    variables: dict[str, str], table: str | None, deprecated: bool
) -> None:
    """One DeprecationWarning, at the caller's line, with the name to use."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = ClientConfig.from_env({"ENVIRONMENT": "development", **variables})
    assert config.dynamo_table == table
    assert [str(warning.message) for warning in caught] == [
        "DYNAMO_TABLE_NAME is deprecated. Use DYNAMODB_TABLE_NAME instead."
    ] * deprecated
    assert all(warning.category is DeprecationWarning for warning in caught)
    assert all(warning.filename == __file__ for warning in caught)


@pytest.mark.parametrize("variable", ["DYNAMODB_TABLE_NAME", "DYNAMO_TABLE_NAME"])
def test_the_old_name_reaches_the_table_as_the_new_one_does(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Through the whole way: manager, client, store."""
    monkeypatch.setenv(variable, "usage")
    expected = (
        pytest.warns(DeprecationWarning, match="DYNAMO_TABLE_NAME is deprecated")
        if variable == "DYNAMO_TABLE_NAME"
        else warnings.catch_warnings()
    )
    with expected:
        manager = ClientManager()
    with manager:
        assert isinstance(manager.dynamo, ResilientDynamoClient)
        assert manager.dynamo.settings.destination == "usage@us-east-1"


@pytest.mark.parametrize(
    "table",
    [
        "latest-table",
        "test-table",
        "test",
        "integration-test-table",
        "usage-test",
        "TestTable",
        "stress-test-table",
        "contest",
    ],
)
def test_no_name_of_a_table_switches_resilience_off(table: str) -> None:
    """The earlier system took "latest-table" for a test's."""
    config = ClientConfig.from_env({"DYNAMODB_TABLE_NAME": table, "ENVIRONMENT": "production"})
    with ClientManager(config) as manager:
        assert type(manager.dynamo) is ResilientDynamoClient
        assert isinstance(manager.dynamo._store, DynamoClient)
        assert manager.dynamo.settings.table_name == table


def test_without_a_table_development_has_a_store_and_production_an_error() -> None:
    """The error names the variable; the store is the embedded one."""
    with ClientManager(ClientConfig.from_env({"ENVIRONMENT": "production"})) as manager:
        with pytest.raises(ConfigurationError, match="DYNAMODB_TABLE_NAME"):
            _ = manager.dynamo
        with pytest.raises(ConfigurationError, match="DYNAMODB_TABLE_NAME"):
            _ = manager.usage_tracker
    with ClientManager() as manager:
        assert type(manager.dynamo) is UsageClient


def test_what_is_passed_wins_over_the_environment() -> None:
    """And what makes no sense is refused where it is made."""
    settings = Settings.from_env(table_name="mine")
    config = ClientConfig.from_env(
        {"OPENAI_API_KEY": "env", "USER_ID": "env"}, openai_api_key="mine", settings=settings
    )
    assert (config.openai_api_key, config.user_id, config.dynamo_table) == ("mine", "env", "mine")
    with pytest.raises(ConfigurationError, match="TRACK_AI_USAGE='maybe'"):
        ClientConfig.from_env({"TRACK_AI_USAGE": "maybe"})
    with pytest.raises(ConfigurationError, match="pinecone_api_key"):
        ClientConfig.from_env({}, pinecone_api_key="x")


# Its end


@pytest.mark.usefixtures("vendors")
def test_it_closes_what_it_made_and_nothing_else() -> None:
    """A client that its user made stays open, as do those of another manager."""
    own = openai.OpenAI()
    other = ClientManager()
    manager = ClientManager()
    wrapped, tracker, dynamo = manager.openai, manager.usage_tracker, manager.dynamo
    user_client = tracker.wrap(own)
    chat(other.openai)
    manager.close()
    manager.close()
    assert (wrapped.is_closed(), own.is_closed(), dynamo.closed) == (True, False, True)
    assert (other.openai.is_closed(), other.dynamo.closed) == (False, False)
    chat(user_client)  # the pipeline goes on; what cannot be recorded any more is counted
    assert "closed" in repr(manager)
    for name in ("dynamo", "usage_tracker", "openai", "anthropic"):
        with pytest.raises(RuntimeError, match=f"{name} was asked for too late"):
            getattr(manager, name)
    own.close()
    other.close()


def test_a_client_that_fails_to_close_keeps_nothing_else_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it raises is raised when all is done."""

    def fails(_: object) -> None:
        raise OSError("cannot close")

    monkeypatch.setattr(openai.OpenAI, "close", fails)
    manager = ClientManager(ClientConfig.from_env(openai_api_key="no-key"))
    dynamo, client = manager.dynamo, manager.openai
    with pytest.raises(OSError, match="cannot close"):
        manager.close()
    assert dynamo.closed
    monkeypatch.undo()
    client.close()


# One a process


def test_a_process_has_one_manager_until_it_is_closed() -> None:
    """Eight threads that ask at once get the same; another configuration is refused."""
    found: list[ClientManager] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        manager = get_client_manager()
        assert isinstance(manager.usage_tracker, AIUsageTracker)
        found.append(manager)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(manager) for manager in found}) == 1
    assert len({id(manager.usage_tracker) for manager in found}) == 1
    assert get_client_manager(found[0].config) is found[0]
    with pytest.raises(RuntimeError, match="of another configuration"):
        get_client_manager(ClientConfig.from_env(user_id="other"))
    found[0].close()
    assert get_client_manager() is not found[0]


@pytest.mark.usefixtures("vendors")
def test_a_child_of_a_fork_makes_vendors_clients_of_its_own_and_leaves_its_parents_alone() -> None:
    """Connections are not shared; the parent's go on. Also where a thread held the lock."""
    manager = get_client_manager()
    parents = manager.openai
    chat(parents)

    def child() -> None:
        again = get_client_manager()
        assert again.openai is not parents
        chat(again.openai)
        again.close()

    codes: list[int] = []
    with manager._lock, client_manager._manager_lock:
        thread = threading.Thread(target=lambda: codes.append(in_fork(child)))
        thread.start()
        thread.join()
    assert codes == [0]
    chat(parents)
    assert not parents.is_closed()
    assert len(list(manager.dynamo.query())) == 3
