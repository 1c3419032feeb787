"""Each vendor counts in its own way; one normalised usage comes out."""

from __future__ import annotations

from typing import Any

import pytest

from receipt_label.usage import Usage
from tests.support.usage_replies import chat, read

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
