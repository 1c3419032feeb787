"""Each vendor counts in its own way; one normalised usage comes out."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from receipt_label.usage import Reply, Usage, read_reply


def read(response: object, **hints: Any) -> Reply:
    reply = read_reply(response, **hints)
    assert isinstance(reply, Reply), reply
    return reply


def chat(usage: object, **more: Any) -> dict[str, Any]:
    return {"object": "chat.completion", "id": "chatcmpl-1", "model": "m", "usage": usage, **more}


USAGES: dict[str, tuple[dict[str, Any], dict[str, Any], Usage]] = {
    "openai: cached and reasoning are subsets": (
        chat(
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 5},
            }
        ),
        {},
        Usage(
            input_tokens=100,
            cached_input_tokens=64,
            output_tokens=50,
            reasoning_tokens=30,
            details={"input_audio_tokens": 10, "output_audio_tokens": 5},
        ),
    ),
    "xai: reasoning stands beside the completion": (
        chat(
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            }
        ),
        {"service": "x-ai"},
        Usage(input_tokens=32, output_tokens=103, reasoning_tokens=94),
    ),
    "gemini, openai-compatible: thoughts are in the total alone": (
        chat({"prompt_tokens": 758, "completion_tokens": 102, "total_tokens": 1725}),
        {"service": "google"},
        Usage(input_tokens=758, output_tokens=967, reasoning_tokens=865),
    ),
    "deepseek: prompt_cache_hit_tokens": (
        chat(
            {
                "prompt_tokens": 20,
                "completion_tokens": 1,
                "total_tokens": 21,
                "prompt_cache_hit_tokens": 16,
            }
        ),
        {},
        Usage(input_tokens=20, cached_input_tokens=16, output_tokens=1),
    ),
    "mistral: num_cached_tokens": (
        chat(
            {
                "prompt_tokens": 64,
                "completion_tokens": 6,
                "total_tokens": 70,
                "num_cached_tokens": 32,
            }
        ),
        {},
        Usage(input_tokens=64, cached_input_tokens=32, output_tokens=6),
    ),
    "perplexity: citations and reasoning beside, searches by the piece": (
        chat(
            {
                "prompt_tokens": 33,
                "completion_tokens": 7163,
                "total_tokens": 7196,
                "citation_tokens": 20016,
                "num_search_queries": 21,
                "reasoning_tokens": 73969,
            }
        ),
        {"service": "perplexity"},
        Usage(
            input_tokens=33,
            output_tokens=101148,
            reasoning_tokens=73969,
            details={"output_citation_tokens": 20016, "web_searches": 21},
        ),
    ),
    "explicit zeros are known": (
        chat({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        {},
        Usage(input_tokens=0, output_tokens=0),
    ),
    "voyage: the total is the input": (
        {
            "object": "list",
            "data": [{"object": "embedding"}],
            "model": "voyage-3.5",
            "usage": {"total_tokens": 3},
        },
        {},
        Usage(input_tokens=3, output_tokens=0),
    ),
    "responses: cache writes, searches": (
        {
            "object": "response",
            "id": "resp_1",
            "model": "gpt-5",
            "status": "completed",
            "tool_usage": {"web_search": {"num_requests": 2}},
            "usage": {
                "input_tokens": 4020,
                "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 4012},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 4025,
            },
        },
        {},
        Usage(
            input_tokens=4020,
            cached_input_tokens=1,
            cache_write_tokens=4012,
            output_tokens=5,
            reasoning_tokens=0,
            details={"web_searches": 2},
        ),
    ),
    "realtime: audio by direction and cache": (
        {
            "type": "response.done",
            "response": {
                "object": "realtime.response",
                "id": "resp_r",
                "status": "completed",
                "usage": {
                    "total_tokens": 253,
                    "input_tokens": 132,
                    "output_tokens": 121,
                    "input_token_details": {
                        "text_tokens": 100,
                        "audio_tokens": 32,
                        "cached_tokens": 64,
                        "cached_tokens_details": {"text_tokens": 50, "audio_tokens": 14},
                    },
                    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
                },
            },
        },
        {"request_model": "gpt-realtime"},
        Usage(
            input_tokens=132,
            cached_input_tokens=64,
            output_tokens=121,
            details={
                "input_audio_tokens": 32,
                "output_audio_tokens": 91,
                "cache_audio_read_tokens": 14,
            },
        ),
    ),
    "images: all output is image where nothing breaks it down": (
        {
            "created": 1713833628,
            "data": [{}],
            "usage": {
                "total_tokens": 100,
                "input_tokens": 50,
                "output_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
            },
        },
        {"request_model": "gpt-image-1"},
        Usage(
            input_tokens=50,
            output_tokens=50,
            details={"input_image_tokens": 40, "output_image_tokens": 50},
        ),
    ),
    "transcription by the second": (
        {"text": "", "usage": {"type": "duration", "seconds": 9}},
        {"request_model": "whisper-1"},
        Usage(details={"audio_seconds": 9}),
    ),
    "transcription by tokens": (
        {
            "text": "",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                "output_tokens": 45,
                "total_tokens": 59,
            },
        },
        {"request_model": "gpt-4o-transcribe"},
        Usage(input_tokens=14, output_tokens=45, details={"input_audio_tokens": 14}),
    ),
    "anthropic: cache stands beside the input": (
        {
            "type": "message",
            "id": "msg_1",
            "model": "claude-sonnet-4-5",
            "usage": {
                "input_tokens": 3,
                "cache_read_input_tokens": 12304,
                "cache_creation_input_tokens": 7,
                "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 5},
                "output_tokens": 10,
                "output_tokens_details": {"thinking_tokens": 4},
                "server_tool_use": {"web_search_requests": 1},
            },
        },
        {},
        Usage(
            input_tokens=12314,
            cached_input_tokens=12304,
            cache_write_tokens=7,
            output_tokens=10,
            reasoning_tokens=4,
            details={"cache_write_5m_tokens": 2, "cache_write_1h_tokens": 5, "web_searches": 1},
        ),
    ),
    "gemini: tool prompts are input, thoughts output": (
        {
            "candidates": [],
            "modelVersion": "gemini-2.5-pro",
            "usageMetadata": {
                "promptTokenCount": 427,
                "cachedContentTokenCount": 100,
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 60}],
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 80}],
                "candidatesTokenCount": 122,
                "toolUsePromptTokenCount": 771,
                "thoughtsTokenCount": 447,
                "totalTokenCount": 1767,
            },
        },
        {},
        Usage(
            input_tokens=1198,
            cached_input_tokens=100,
            output_tokens=569,
            reasoning_tokens=447,
            details={"input_audio_tokens": 80, "cache_audio_read_tokens": 60},
        ),
    ),
    "google-genai's own field names": (
        {
            "candidates": [{"finish_reason": "STOP"}],
            "model_version": "gemini-2.5-flash",
            "usage_metadata": {
                "prompt_token_count": 5,
                "candidates_token_count": 2,
                "thoughts_token_count": None,
                "total_token_count": 7,
                "prompt_tokens_details": [{"modality": "IMAGE", "token_count": 3}],
            },
        },
        {},
        Usage(input_tokens=5, output_tokens=2, details={"input_image_tokens": 3}),
    ),
    "interactions": (
        {
            "object": "interaction",
            "id": "v1_x",
            "model": "gemini-3-flash",
            "status": "completed",
            "usage": {
                "total_input_tokens": 10,
                "total_output_tokens": 4,
                "total_thought_tokens": 6,
                "total_tool_use_tokens": 1,
                "total_tokens": 21,
            },
        },
        {},
        Usage(input_tokens=11, output_tokens=10, reasoning_tokens=6),
    ),
    "bedrock converse: cache stands beside the input": (
        {
            "stopReason": "end_turn",
            "usage": {
                "inputTokens": 3,
                "cacheReadInputTokens": 1712,
                "cacheWriteInputTokens": 236,
                "cacheDetails": [
                    {"ttl": "1h", "inputTokens": 36},
                    {"ttl": "5m", "inputTokens": 200},
                ],
                "outputTokens": 121,
                "totalTokens": 2072,
            },
        },
        {"request_model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0"},
        Usage(
            input_tokens=1951,
            cached_input_tokens=1712,
            cache_write_tokens=236,
            output_tokens=121,
            details={"cache_write_1h_tokens": 36, "cache_write_5m_tokens": 200},
        ),
    ),
    "bedrock invoke: counts in the headers": (
        {
            "ResponseMetadata": {
                "RequestId": "r-1",
                "HTTPHeaders": {
                    "x-amzn-bedrock-input-token-count": "11",
                    "x-amzn-bedrock-output-token-count": "4",
                },
            },
            "body": None,
        },
        {},
        Usage(input_tokens=11, output_tokens=4),
    ),
    "bedrock titan": (
        {"inputTextTokenCount": 5, "results": [{"tokenCount": 7}, {"tokenCount": 1}]},
        {},
        Usage(input_tokens=5, output_tokens=8),
    ),
    "bedrock titan embeddings": (
        {"embedding": [0.1], "inputTextTokenCount": 5},
        {},
        Usage(input_tokens=5, output_tokens=0),
    ),
    "bedrock llama": (
        {"generation": "", "prompt_token_count": 12, "generation_token_count": 3},
        {},
        Usage(input_tokens=12, output_tokens=3),
    ),
    "cohere: billed units, not the tokens that it saw": (
        {
            "id": "c-1",
            "message": {},
            "finish_reason": "COMPLETE",
            "usage": {
                "billed_units": {"input_tokens": 41.0, "output_tokens": 25.0},
                "cached_tokens": 144,
                "tokens": {"input_tokens": 1441, "output_tokens": 54},
            },
        },
        {},
        Usage(input_tokens=41, output_tokens=25),
    ),
    "ollama's own api": (
        {
            "model": "llama3.2",
            "created_at": "2026-07-22T20:33:28.123648123Z",
            "done": True,
            "message": {},
            "prompt_eval_count": 26,
            "eval_count": 290,
        },
        {},
        Usage(input_tokens=26, output_tokens=290),
    ),
    "mistral ocr, by the page": (
        {"model": "mistral-ocr-latest", "pages": [], "usage_info": {"pages_processed": 3}},
        {},
        Usage(details={"input_document_pages": 3}),
    ),
    "cohere rerank, by the search": (
        {"id": "r", "results": [], "meta": {"billed_units": {"search_units": 1}}},
        {},
        Usage(details={"rerank_searches": 1}),
    ),
}


@pytest.mark.parametrize("case", USAGES.values(), ids=USAGES.keys())
def test_usage_is_normalised(case: tuple[dict[str, Any], dict[str, Any], Usage]) -> None:
    """Input includes the cache, output the reasoning, details are what is priced apart."""
    body, hints, expected = case
    reply = read(body, **hints)
    assert reply.usage == expected
    assert reply.fault is None


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
