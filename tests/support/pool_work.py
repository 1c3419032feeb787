"""What processes of a pool do in tests: record calls, with a tracker of their own."""

from __future__ import annotations

import os
from functools import cache

from receipt_dynamo import Settings, open_usage_client
from receipt_label import AIUsageTracker
from receipt_label.context import current


@cache
def tracker_of(pid: int) -> AIUsageTracker:
    """Return the tracker of this process; its records are delivered by whoever asks later."""
    assert pid == os.getpid()
    return AIUsageTracker(open_usage_client(Settings.from_env(drain="external")), strict=True)


def record(request_id: str) -> tuple[int, str | None]:
    """Record one call; return the process and the job in force."""
    tracker = tracker_of(os.getpid())
    tracker.record(
        service="openai", model="gpt-4o", operation="chat", request_id=request_id, input_tokens=1
    )
    return os.getpid(), current().get("job_id")


def record_within(job: str) -> tuple[int, str | None]:
    """Record one call within a scope that is never left, and one in what it finds."""
    record(f"{job}-outer")
    tracker = tracker_of(os.getpid())
    scope = tracker.context(job_id=f"{job}/inner")
    scope.__enter__()
    return record(f"{job}/inner-call")


def call_model(url: str, job: str) -> str | None:
    """Call OpenAI's real client, wrapped, at ``url``, saying ``job``; return the job in force."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="stand-in", max_retries=0)
    tracker_of(os.getpid()).wrap(client).chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": job}], user=job
    )
    client.close()
    return current().get("job_id")
