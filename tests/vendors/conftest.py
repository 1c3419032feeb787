"""The vendors' real SDKs against a server on this machine, bare and wrapped."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import AIUsageTracker
from tests.support.google_calls import close
from tests.support.vendor_server import VendorServer

_TLS = ssl.create_default_context()
"""Made once: each client would take 50 ms to load certificates that nothing here needs."""

Make = Callable[..., Any]
Records = Callable[..., list[AIUsageMetric]]
Client = Callable[..., genai.Client]
Run = Callable[[Any], Any]


@pytest.fixture(scope="package")
def vendor_server() -> Iterator[VendorServer]:
    """One server for all of these tests."""
    with VendorServer() as server:
        yield server


@pytest.fixture
def server(vendor_server: VendorServer) -> VendorServer:
    """The server, with nothing asked and nothing scripted."""
    vendor_server.reset()
    return vendor_server


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client)


@pytest.fixture
def records(client: UsageClient) -> Records:
    """Deliver what is spooled and return what the store holds, by time.

    Each was recorded once, unless ``repeated``: the store would make one of two that are alike.
    """

    def look(*, repeated: bool = False) -> list[AIUsageMetric]:
        client.flush()
        found = list(client.query())
        if not repeated:
            assert client.health().recorded == len(found)
        return found

    return look


def only(records: Records) -> AIUsageMetric:
    (record,) = records()
    return record


def figures(record: AIUsageMetric) -> tuple[Any, ...]:
    return record.status, record.input_tokens, record.output_tokens, record.unpriced_reason


@pytest.fixture
def make(server: VendorServer) -> Make:
    """Make a client of a vendor's SDK, by its class's name, that talks to the server."""

    def make_one(kind: str, **changes: Any) -> Any:
        chosen: dict[str, Any] = {"api_key": "stand-in", "max_retries": 0, **changes}
        if "Azure" in kind:
            chosen = {"azure_endpoint": server.url, "api_version": "2024-10-21", **chosen}
        elif "Anthropic" in kind:
            chosen.setdefault("base_url", server.url)
        else:
            chosen.setdefault("base_url", f"{server.url}/v1")
        vendor = anthropic if "Anthropic" in kind else openai
        http = "DefaultAsyncHttpxClient" if kind.startswith("Async") else "DefaultHttpxClient"
        if "http_client" not in chosen:
            chosen["http_client"] = getattr(vendor, http)(verify=_TLS)
        return getattr(vendor, kind)(**chosen)

    return make_one


@pytest.fixture
def wrapped(tracker: AIUsageTracker, make: Make) -> Iterator[openai.OpenAI]:
    with tracker.wrap(make("OpenAI")) as client:
        yield client


@pytest.fixture
def claude(tracker: AIUsageTracker, make: Make) -> Iterator[anthropic.Anthropic]:
    with tracker.wrap(make("Anthropic")) as client:
        yield client


@pytest.fixture
def run() -> Iterator[Callable[[Any], Any]]:
    """Run coroutines in one event loop: connections belong to the one that they were made in."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(coroutine, context=contextvars.copy_context())


def http_options(server: VendorServer, **changes: Any) -> types.HttpOptions:
    """The server's address, and one TLS context for all: each takes a while to load, unused."""
    known = types.HttpOptions.model_fields
    tls = {name: {"verify": _TLS} for name in ("client_args", "async_client_args") if name in known}
    given = {name: value for name, value in changes.items() if value is not None}
    return types.HttpOptions(base_url=server.url, **tls, **given)


@pytest.fixture
def client_of(server: VendorServer, run: Run) -> Iterator[Client]:
    """Make clients of Google's SDK that talk to the server; of Vertex AI with ``vertexai=True``."""
    made: list[genai.Client] = []

    def make(*, retry_options: Any = None, **changes: Any) -> genai.Client:
        options = http_options(server, retry_options=retry_options)
        one = genai.Client(api_key="stand-in", http_options=options, **changes)
        made.append(one)
        return one

    yield make
    for one in made:
        run(close(one))
    made.clear()
    if not hasattr(genai.Client, "close"):
        gc.collect()  # what such a version leaves open warns here, not in another test
