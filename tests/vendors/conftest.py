"""The vendors' real SDKs against a server on this machine, bare and wrapped."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import AIUsageTracker
from tests.support.vendor_server import VendorServer

_TLS = ssl.create_default_context()
"""Made once: each client would take 50 ms to load certificates that nothing here needs."""

Make = Callable[..., Any]
Records = Callable[..., list[AIUsageMetric]]


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
