"""Privacy: no way past the mask, also for records that come from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import AIUsageTracker, UsageLogger, ai_usage_context
from tests.pitfalls.conftest import RunProgram
from tests.support.vendor_server import Answer, VendorServer, error
from tests.vendors.conftest import Make

KEY = "sk-proj-" + "Ab3dEf6h" * 6
MAIL = "ann.canary@example.com"
SECRETS = [KEY, MAIL]
CANARY = "CANARY of the pipeline's own"
SAID: list[Any] = [{"role": "user", "content": f"{KEY} {MAIL} {CANARY}"}]
NOTE = {"api_key": KEY, "deep": [{"to": f"write to {MAIL}"}], "own": CANARY}
REPLY = {
    "id": "chatcmpl-0123456789abcdefghij",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": CANARY}}
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


class Exporter:
    """Another system that is shown every metric."""

    def __init__(self) -> None:
        self.seen: list[AIUsageMetric] = []

    def bind(self, _tracker: AIUsageTracker) -> None: ...

    def export(self, metric: AIUsageMetric) -> None:
        self.seen.append(metric)


def wrapped_calls(tracker: AIUsageTracker, make: Make, server: VendorServer) -> None:
    """Spans that a vendor's client makes: answered, streamed, refused."""
    with tracker.wrap(make("OpenAI")) as client, tracker.context(metadata=NOTE, user_id=KEY):
        client.chat.completions.create(model="gpt-4o", messages=SAID, user=MAIL)
        list(client.chat.completions.create(model="gpt-4o-mini", messages=SAID, stream=True))
        refusal = error(400, f"bad {KEY}")
        server.script(Answer(refusal.body.replace(b"secret text", CANARY.encode()), status=400))
        with pytest.raises(Exception, match=CANARY):
            client.chat.completions.create(model="gpt-4o", messages=SAID)


def replies(tracker: AIUsageTracker, _make: Make, _server: VendorServer) -> None:
    """Replies and batches that are handed in."""
    tracker.record_response(REPLY, metadata=NOTE, error=f"? {KEY} {MAIL}")
    line = {"custom_id": "x", "response": {"status_code": 200, "body": REPLY}, "error": None}
    tracker.record_batch_output(json.dumps(line), metadata=NOTE)


def operations(tracker: AIUsageTracker, _make: Make, _server: VendorServer) -> None:
    """Functions, tools and blocks, with their errors' messages."""

    @tracker.track(error_messages=True, metadata=NOTE)
    def fails() -> None:
        raise ValueError(f"{KEY} of {MAIL}")

    @tracker.tool(cost="0.01", error_messages=True, metadata=NOTE)
    def look_up(_number: str) -> None:
        raise ValueError(f"{KEY} of {MAIL}")

    with pytest.raises(ValueError, match="sk-proj"):
        fails()
    with pytest.raises(ValueError, match="sk-proj"):
        look_up(CANARY)
    with ai_usage_context("label", user_id=KEY, metadata=NOTE):
        tracker.record(service="openai", model="gpt-4o", error=f"{KEY} {MAIL}")


def agents(tracker: AIUsageTracker, _make: Make, _server: VendorServer) -> None:
    """What an agent logs of its tools."""
    with UsageLogger(tracker, metadata=NOTE) as log:
        log.log_tool_usage("Bash", error=f"{KEY} {MAIL}", metadata=NOTE)
        log.log_skill("pdf", metadata=NOTE)
        log.log_subagent("Explore", metadata=NOTE)
        log.log_action("deploy", details=NOTE)


WAYS: list[Callable[[AIUsageTracker, Make, VendorServer], None]] = [
    wrapped_calls,
    replies,
    operations,
    agents,
]


def mask_of_ones_own(metadata: Any) -> Any:
    """Take out what only the pipeline knows."""
    return json.loads(json.dumps(metadata).replace(CANARY, "[own]"))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_record_goes_past_the_mask_whoever_made_it(
    way: Callable[[AIUsageTracker, Make, VendorServer], None],
    client: UsageClient,
    make: Make,
    server: VendorServer,
    tmp_path: Path,
) -> None:
    """Another tracker's mask left out records of other instrumentations: here neither a file nor
    an exporter ever sees what the rules, or a mask of one's own, take out.
    """
    exporter = Exporter()
    tracker = AIUsageTracker(client, mask=mask_of_ones_own, exporters=[exporter])
    server.own_ids = True
    way(tracker, make, server)
    spooled = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    client.flush()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert exporter.seen
    assert b"[secret]" in spooled
    for secret in [*SECRETS, CANARY]:
        assert secret.encode() not in spooled + stored, secret
        assert secret not in repr(exporter.seen), secret


PROGRAM = """
from receipt_label import AIUsageTracker
with AIUsageTracker(strict=True) as tracker:
    tracker.record(service="openai", model="gpt-4o", operation="chat")
"""


def test_a_context_of_no_tracker_keeps_no_credential_either(
    run_program: RunProgram, client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """``ai_usage_context`` and the environment's context: in ids and in what is logged of them."""
    with ai_usage_context("label", user_id=[KEY]):
        pass
    assert "is no text" in caplog.text
    assert KEY not in caplog.text
    given = json.dumps({"user_id": KEY, "job_id": [KEY]})
    ran = run_program(PROGRAM, RECEIPT_USAGE_CONTEXT=given)
    assert ran.returncode == 0
    assert "is no text" in ran.stderr
    assert KEY not in ran.stderr
    (record,) = client.query()
    assert (record.user_id, record.job_id) == ("[secret]", None)
