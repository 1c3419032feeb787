"""A web application that records every request: what gunicorn serves in a test.

It records once while it loads, which with ``--preload`` is in the master, before any fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from receipt_dynamo import Settings, open_usage_client
from tests.support import make_metric

client = open_usage_client(Settings.from_env())
client.put_ai_usage_metric(make_metric(request_id="master"))


def application(
    environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Record a metric under the id in the path; answer what became of it, and who did it."""
    request_id = environ["PATH_INFO"].lstrip("/")
    result = client.put_ai_usage_metric(make_metric(request_id=request_id))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [f"{result} {os.getpid()}".encode()]
