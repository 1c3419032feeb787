"""What a reply says beside its usage: its faults, cost, tier, time, service and model."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from receipt_label.usage import Usage
from tests.support.usage_replies import chat, read

INCONSISTENT = {
    "cached beyond the input": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
    "negative": {"prompt_tokens": -1, "completion_tokens": 2},
    "text": {"prompt_tokens": "12", "completion_tokens": 2},
    "truth value": {"prompt_tokens": True, "completion_tokens": 2},
    "fraction": {"prompt_tokens": 1.5, "completion_tokens": 2},
    "wrong total": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 4},
    "reasoning beyond the output": {"completion_tokens": 1, "reasoning_tokens": 2},
    "a list": {"prompt_tokens": [1], "completion_tokens": 2},
    "too much for anybody": {"prompt_tokens": 10**30, "completion_tokens": 2},
    "not an object": "12",
}


@pytest.mark.parametrize("usage", INCONSISTENT.values(), ids=INCONSISTENT.keys())
def test_figures_that_contradict_keep_the_call(usage: object) -> None:
    """The call stays, unmeasured, with the vendor's figures beside it."""
    reply = read(chat(usage, model="gpt-4o"))
    assert reply.usage is None
    assert reply.fault == "inconsistent_usage"
    assert "raw_usage" in reply.metadata
    assert (reply.service, reply.model, reply.response_id) == ("openai", "gpt-4o", "chatcmpl-1")


def test_raw_usage_never_holds_a_text() -> None:
    """Figures are kept raw, but what might be somebody's words is not."""
    reply = read(chat({"prompt_tokens": "the patient said", "note": {"more words": 1}}))
    assert reply.metadata["raw_usage"] == {"prompt_tokens": "(text)", "note": {"(text)": 1}}


def test_compaction_is_billed_and_an_advisor_is_a_call_of_its_own() -> None:
    """Compaction adds to the message; an advisor's tokens come apart, at its own model."""
    block = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    reply = read(
        {
            "type": "message",
            "id": "msg_1",
            "model": "claude-sonnet-5",
            "usage": {
                "input_tokens": 229,
                "output_tokens": 5,
                **block,
                "iterations": [
                    {
                        "type": "compaction",
                        "input_tokens": 100,
                        "output_tokens": 131,
                        "cache_read_input_tokens": 0,
                        "cache_creation_input_tokens": 55096,
                        "cache_creation": {"ephemeral_5m_input_tokens": 55096},
                    },
                    {
                        "type": "advisor_message",
                        "model": "claude-opus-5",
                        "input_tokens": 7,
                        "output_tokens": 3,
                        **block,
                    },
                    {"type": "message", "input_tokens": 229, "output_tokens": 5, **block},
                ],
            },
        }
    )
    assert reply.usage == Usage(
        input_tokens=55425,
        cached_input_tokens=0,
        cache_write_tokens=55096,
        output_tokens=136,
        details={"cache_write_5m_tokens": 55096},
    )
    (advisor,) = reply.also
    assert (advisor.model, advisor.response_id) == ("claude-opus-5", "msg_1-advisor-1")
    assert advisor.usage is not None
    assert (advisor.usage.input_tokens, advisor.usage.output_tokens) == (7, 3)


@pytest.mark.parametrize(
    ("text", "service", "cost"),
    [
        ('{"cost": 0.0076509169000000005}', "openrouter", "0.0076509169000000005"),
        ('{"cost": 4e-05, "is_byok": false}', "openrouter", "0.00004"),
        (
            '{"cost": 0.01, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.2}}',
            "openrouter",
            "0.21",
        ),
        ('{"cost_in_usd_ticks": 37756000}', "x-ai", "0.0037756"),
        ('{"cost": {"total_cost": 0.006}}', "perplexity", "0.006"),
    ],
)
def test_the_vendors_own_cost_is_exact(text: str, service: str, cost: str) -> None:
    """Money is the decimal that the vendor wrote; with one's own key both bills add up."""
    line = f'{{"object": "chat.completion", "model": "m", "usage": {text}}}'
    assert read(line, service=service).provider_cost_usd == Decimal(cost)


def test_a_byok_call_without_its_upstream_cost_has_no_vendors_cost() -> None:
    """OpenRouter's fee alone is not what the call cost."""
    assert read(chat({"cost": 0.01, "is_byok": True})).provider_cost_usd is None


CONTEXTS = [
    (chat({}, service_tier="default"), {}),
    (chat({}, service_tier="auto"), {}),
    (chat({}, service_tier="on_demand"), {}),
    (chat({}, service_tier="flex"), {"service_tier": "flex"}),
    (chat({}, service_tier="priority"), {"service_tier": "priority"}),
    (
        {"type": "message", "usage": {"input_tokens": 1, "service_tier": "batch"}},
        {"processing": "batch"},
    ),
    (
        {"type": "message", "usage": {"input_tokens": 1, "speed": "fast"}},
        {"speed": "fast"},
    ),
    (
        {"type": "message", "usage": {"input_tokens": 1, "inference_geo": "us"}},
        {"inference_geo": "us"},
    ),
    (
        {"type": "message", "usage": {"input_tokens": 1, "inference_geo": "not_available"}},
        {},
    ),
    (
        {
            "candidates": [],
            "usageMetadata": {"promptTokenCount": 1, "trafficType": "ON_DEMAND_FLEX"},
        },
        {"service_tier": "flex"},
    ),
    (
        {"candidates": [], "usageMetadata": {"promptTokenCount": 1, "serviceTier": "standard"}},
        {},
    ),
]


@pytest.mark.parametrize(("body", "context"), CONTEXTS)
def test_the_tier_selects_the_price(body: dict[str, Any], context: dict[str, str]) -> None:
    """price_context speaks genai-prices' words, and ordinary tiers say nothing."""
    assert read(body).price_context == context


def test_created_is_ignored_where_it_cannot_be() -> None:
    """Times before 2015 and after tomorrow are not the vendor's time of the reply."""

    def now() -> datetime:
        return datetime(2026, 6, 1, tzinfo=UTC)

    def created(value: object) -> datetime | None:
        return read(chat({}, created=value), now=now).created

    assert created(1_780_272_000) == datetime(2026, 6, 1, tzinfo=UTC)
    assert created("2026-06-01T10:00:00.123456789Z") is not None
    assert created(0) is None
    assert created(1_780_272_000 + 3 * 86400) is None
    assert created(1_780_272_000_000) == datetime(2026, 6, 1, tzinfo=UTC)
    assert created(1_780_272_000_000 + 3 * 86400_000) is None
    assert created(1_780_272_000_000_000) is None
    assert created("soon") is None
    assert created(True) is None
    assert created(float("nan")) is None


def test_the_caller_knows_better() -> None:
    """service, model and operation as given win over the reply; the requested model is kept."""
    reply = read(
        chat({"prompt_tokens": 1, "completion_tokens": 1}, model="gpt-4o-2024-08-06"),
        service="Azure",
        model="gpt-4o",
        operation="review",
        request_model="my-deployment",
    )
    assert (reply.service, reply.model, reply.operation, reply.request_model) == (
        "azure",
        "gpt-4o",
        "review",
        "my-deployment",
    )


SERVICES = [
    ("https://api.openai.com/v1/chat/completions", "openai"),
    ("https://x.openai.azure.com/openai/deployments/d/chat/completions", "azure"),
    ("https://bedrock-mantle.us-east-1.api.aws/openai/v1/responses", "aws"),
    ("https://bedrock-runtime.eu-west-1.amazonaws.com/model/m/converse", "aws"),
    ("https://us-central1-aiplatform.googleapis.com/v1/x", "google"),
    ("http://localhost:8787/groq/openai/v1/chat/completions", "groq"),
    ("http://localhost:8787/google-vertex/v1/x", "google"),
    ("http://localhost:11434/api/chat", "ollama"),
    ("https://router.huggingface.co/together/v1/chat/completions", "huggingface_together"),
    ("https://router.huggingface.co/v1/chat/completions", "huggingface"),
    ("https://api.x.ai/v1/chat/completions", "x-ai"),
    ("https://api.z.ai/api/paas/v4/chat/completions", "zai"),
    ("https://gateway.example.com/v1/chat/completions", "openai_compatible"),
    ("http://[broken", "openai_compatible"),
]


@pytest.mark.parametrize(("url", "service"), SERVICES)
def test_the_address_names_the_service(url: str, service: str) -> None:
    """Host first, then a gateway's path; an unknown host says nothing."""
    assert read(chat({"prompt_tokens": 1}), url=url).service == service


SHAPES = [
    (chat({}, provider="Amazon Bedrock"), "openrouter"),
    (chat({}, x_groq={"id": "req"}), "groq"),
    (chat({}, system_fingerprint="fp_ollama"), "ollama"),
    (chat({}, time_info={}), "cerebras"),
    (chat({}, prompt_filter_results=[]), "azure"),
    (chat({}, model="gpt-5-mini"), "openai"),
    (chat({}, model="gpt-oss-120b"), "openai_compatible"),
    (chat({}, model="llama-3.3-70b"), "openai_compatible"),
    (chat({}, model="grok-4"), "x-ai"),
    ({"type": "message", "id": "msg_01", "usage": {"input_tokens": 1}}, "anthropic"),
    ({"type": "message", "id": "msg_bdrk_01", "usage": {"input_tokens": 1}}, "aws"),
    ({"type": "message", "id": "msg_vrtx_01", "usage": {"input_tokens": 1}}, "google"),
    ({"usage": {"inputTokens": 1, "outputTokens": 1}, "stopReason": "end_turn"}, "aws"),
    ({"usageMetadata": {"promptTokenCount": 1}, "modelVersion": "m"}, "google"),
]


@pytest.mark.parametrize(("body", "service"), SHAPES)
def test_the_shape_names_the_service(body: dict[str, Any], service: str) -> None:
    """Without an address a vendor's own marks decide, and OpenAI only for OpenAI's models."""
    assert read(body).service == service


def test_bedrock_is_called_by_the_id_in_the_path() -> None:
    """The path's id, decoded, is the priced one; the body has a bare name."""
    url = (
        "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-x-v1%3A0/invoke"
    )
    body = {"type": "message", "model": "claude-x", "usage": {"input_tokens": 1}}
    assert read(body, url=url).model == "us.anthropic.claude-x-v1:0"
