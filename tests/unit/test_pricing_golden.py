"""Prices worked out by hand from the vendors' published price lists.

Each case states the list's figures (USD per 1,000,000 tokens unless it says otherwise), where they
stood and when, and the arithmetic; the expected amount is a literal. A case that fails after an
update of genai-prices means that the data of the past has changed: read the vendor's page before
touching the literal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache

import pytest

from receipt_label.pricing import Price, PriceBook
from receipt_label.usage.reply import Usage


@cache
def book() -> PriceBook:
    """Return one book for all cases."""
    return PriceBook.load()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call and what its vendor charges for it."""

    service: str
    model: str
    usage: Usage | None
    usd: str
    day: str = "2026-11-01"
    context: Mapping[str, str] = field(default_factory=dict)
    api_calls: int = 1
    source: str = "genai-prices"

    def __str__(self) -> str:
        return f"{self.service}/{self.model}/{self.usd}"


CASES = [
    # OpenAI: https://platform.openai.com/docs/pricing (GPT-4o 2.50, cached 1.25, output 10.00;
    # since 2024-10-02). 8,000 x 2.50 + 2,000 x 1.25 + 1,500 x 10 = 20,000 + 2,500 + 15,000 = 37,500
    Case(
        service="openai", model="gpt-4o-2024-08-06", usd="0.0375",
        usage=Usage(input_tokens=10_000, cached_input_tokens=2_000, output_tokens=1_500),
    ),
    # GPT-4o mini: 0.15, cached 0.075, output 0.60 (2024-07-18). One input token: 0.15 / 1,000,000.
    Case(
        service="openai", model="gpt-4o-mini", usd="0.00000015",
        usage=Usage(input_tokens=1, output_tokens=0),
    ),
    # GPT-5: 1.25, cached 0.125, output 10.00 with reasoning in it (2025-08-07).
    # 4,000 x 1.25 + 6,000 x 0.125 + 2,000 x 10 = 5,000 + 750 + 20,000 = 25,750
    Case(
        service="openai", model="gpt-5", usd="0.02575",
        usage=Usage(
            input_tokens=10_000, cached_input_tokens=6_000, output_tokens=2_000,
            reasoning_tokens=1_280,
        ),
    ),
    # o3 before its cut: 10.00 in, 40.00 out (2025-04-16). 1,000,000 of each = 10 + 40
    Case(
        service="openai", model="o3", usd="50", day="2025-06-09",
        usage=Usage(input_tokens=1_000_000, output_tokens=1_000_000),
    ),
    # o3 since 2025-06-10: 2.00 in, 8.00 out (OpenAI, "o3 is now 80 % cheaper"). 2 + 8
    Case(
        service="openai", model="o3", usd="10", day="2025-06-10",
        usage=Usage(input_tokens=1_000_000, output_tokens=1_000_000),
    ),
    # GPT-4.1 through the batch API, half of 2.00 / 8.00 (pricing page, batch table, 2026-10-14).
    # 20,000 x 1 + 3,000 x 4 = 20,000 + 12,000 = 32,000
    Case(
        service="openai", model="gpt-4.1", usd="0.032", context={"processing": "batch"},
        usage=Usage(input_tokens=20_000, output_tokens=3_000),
    ),
    # GPT-4.1 on the priority tier: 3.50 in, 14.00 out (pricing page, priority table, 2026-10-12).
    # 1,000 x 3.5 + 1,000 x 14 = 17,500
    Case(
        service="openai", model="gpt-4.1", usd="0.0175", context={"service_tier": "priority"},
        usage=Usage(input_tokens=1_000, output_tokens=1_000),
    ),
    # GPT-4.1 with web search at 10.00 per 1,000 calls. 5,000 x 2 + 500 x 8 = 14,000; 2 x 0.01
    Case(
        service="openai", model="gpt-4.1", usd="0.034",
        usage=Usage(input_tokens=5_000, output_tokens=500, details={"web_searches": 2}),
    ),
    # text-embedding-3-small 0.02, -large 0.13, ada-002 0.10 (2024-01-25).
    # 1,234 x 0.02 = 24.68; 1,234 x 0.13 = 160.42; 1,234 x 0.10 = 123.4
    Case(
        service="openai", model="text-embedding-3-small", usd="0.00002468",
        usage=Usage(input_tokens=1_234),
    ),
    Case(
        service="openai", model="text-embedding-3-large", usd="0.00016042",
        usage=Usage(input_tokens=1_234, output_tokens=0),
    ),
    Case(
        service="openai", model="text-embedding-ada-002", usd="0.0001234",
        usage=Usage(input_tokens=1_234),
    ),
    # whisper-1: 0.006 a minute (2023-03-01). 90.5 s / 60 x 0.006 = 0.00905
    Case(
        service="openai", model="whisper-1", usd="0.00905",
        usage=Usage(details={"input_audio_seconds": 90.5}),
    ),
    # tts-1: 15.00 per 1,000,000 characters (2023-11-06). 4,000 x 15 = 60,000
    Case(
        service="openai", model="tts-1", usd="0.06",
        usage=Usage(details={"input_characters": 4_000}),
    ),
    # GPT-4o realtime preview (2024-12-17): text 5 / cached 2.50 / 20, audio 40 / cached 2.50 / 80.
    # text in 300 - 100 cached = 200 x 5; cached 150 in all x 2.50; audio in 700 - 50 = 650 x 40;
    # text out 100 x 20; audio out 400 x 80
    # = 1,000 + 375 + 26,000 + 2,000 + 32,000 = 61,375
    Case(
        service="openai", model="gpt-4o-realtime-preview", usd="0.061375",
        usage=Usage(
            input_tokens=1_000, cached_input_tokens=150, output_tokens=500,
            details={
                "input_audio_tokens": 700, "cache_audio_read_tokens": 50,
                "output_audio_tokens": 400,
            },
        ),
    ),
    # Anthropic: https://www.anthropic.com/pricing. Claude Haiku 4.5: 1.00, read 0.10, 5-minute
    # write 1.25, 1-hour write 2.00, output 5.00 (2025-10-15); input here counts all four.
    # 500 x 1 + 8,000 x 0.1 + 1,000 x 1.25 + 500 x 2 + 600 x 5 = 500 + 800 + 1,250 + 1,000 + 3,000
    Case(
        service="anthropic", model="claude-haiku-4-5-20251001", usd="0.00655",
        usage=Usage(
            input_tokens=10_000, cached_input_tokens=8_000, cache_write_tokens=1_500,
            output_tokens=600,
            details={"cache_write_5m_tokens": 1_000, "cache_write_1h_tokens": 500},
        ),
    ),
    # Claude Sonnet 4.5: 3.00 / 15.00 up to 200,000 input tokens (2025-09-29).
    # 200,000 x 3 + 1,000 x 15 = 600,000 + 15,000
    Case(
        service="anthropic", model="claude-sonnet-4-5-20250929", usd="0.615",
        usage=Usage(input_tokens=200_000, output_tokens=1_000),
    ),
    # One token more and the whole request costs 6.00 / 22.50.
    # 200,001 x 6 + 1,000 x 22.5 = 1,200,006 + 22,500 = 1,222,506
    Case(
        service="anthropic", model="claude-sonnet-4-5-20250929", usd="1.222506",
        usage=Usage(input_tokens=200_001, output_tokens=1_000),
    ),
    # Claude Opus 4.1: 15.00 / 75.00, web search 10.00 per 1,000 (2025-08-05).
    # 2,000 x 15 + 400 x 75 = 60,000; 3 x 0.01 = 0.03
    Case(
        service="anthropic", model="claude-opus-4-1-20250805", usd="0.09",
        usage=Usage(input_tokens=2_000, output_tokens=400, details={"web_searches": 3}),
    ),
    # Claude 3 Haiku: 0.25, read 0.03, write 0.30, output 1.25 (2024-03-13).
    # 100 x 0.25 + 1,000 x 0.03 + 2,000 x 0.3 + 50 x 1.25 = 25 + 30 + 600 + 62.5 = 717.5
    Case(
        service="anthropic", model="claude-3-haiku-20240307", usd="0.0007175",
        usage=Usage(
            input_tokens=3_100, cached_input_tokens=1_000, cache_write_tokens=2_000,
            output_tokens=50,
        ),
    ),
    # Google: https://ai.google.dev/gemini-api/docs/pricing. Gemini 2.5 Pro: 1.25 / 10.00, cached
    # 0.125, to 200,000 tokens of prompt. 150,000 x 1.25 + 50,000 x 0.125 + 4,000 x 10
    # = 187,500 + 6,250 + 40,000 = 233,750
    Case(
        service="google", model="gemini-2.5-pro", usd="0.23375",
        usage=Usage(
            input_tokens=200_000, cached_input_tokens=50_000, output_tokens=4_000,
            reasoning_tokens=3_000,
        ),
    ),
    # Above it all of the request costs 2.50 / 15.00, cached 0.25.
    # 250,000 x 2.5 + 50,000 x 0.25 + 4,000 x 15 = 625,000 + 12,500 + 60,000 = 697,500
    Case(
        service="google", model="models/gemini-2.5-pro", usd="0.6975",
        usage=Usage(input_tokens=300_000, cached_input_tokens=50_000, output_tokens=4_000),
    ),
    # Gemini 2.5 Flash: text 0.30, audio 1.00, output 2.50 (2025-06-17).
    # 1,000 x 0.3 + 2,000 x 1 + 400 x 2.5 = 300 + 2,000 + 1,000 = 3,300
    Case(
        service="google", model="gemini-2.5-flash", usd="0.0033",
        usage=Usage(
            input_tokens=3_000, output_tokens=400,
            details={"input_text_tokens": 1_000, "input_audio_tokens": 2_000},
        ),
    ),
    # Amazon Bedrock: https://aws.amazon.com/bedrock/pricing/. Nova Pro 0.80 / 3.20, cache read
    # 0.20. 9,000 x 0.8 + 1,000 x 0.2 + 500 x 3.2 = 7,200 + 200 + 1,600 = 9,000
    Case(
        service="aws", model="amazon.nova-pro-v1:0", usd="0.009",
        usage=Usage(input_tokens=10_000, cached_input_tokens=1_000, output_tokens=500),
    ),
    # Nova Lite through the US profile, same price: 0.06 / 0.24. 7 x 0.06 + 3 x 0.24 = 1.14
    Case(
        service="aws", model="us.amazon.nova-lite-v1:0", usd="0.00000114",
        usage=Usage(input_tokens=7, output_tokens=3),
    ),
    # Claude Sonnet 4.5 on Bedrock: global 3.00 / 15.00; a region's own endpoint costs 10 % more.
    # 10,000 x 3 + 1,000 x 15 = 45,000; 10,000 x 3.3 + 1,000 x 16.5 = 49,500
    Case(
        service="aws", model="global.anthropic.claude-sonnet-4-5-20250929-v1:0", usd="0.045",
        usage=Usage(input_tokens=10_000, output_tokens=1_000),
    ),
    Case(
        service="aws", model="us.anthropic.claude-sonnet-4-5-20250929-v1:0", usd="0.0495",
        usage=Usage(input_tokens=10_000, output_tokens=1_000),
    ),
    # Azure OpenAI: https://azure.microsoft.com/pricing/details/azure-openai (GPT-4o global 2.50,
    # cached 1.25, output 10.00). 1,000 x 2.5 + 1,000 x 10 = 12,500
    Case(
        service="azure", model="gpt-4o-2024-11-20", usd="0.0125",
        usage=Usage(input_tokens=1_000, output_tokens=1_000),
    ),
    # Groq: https://groq.com/pricing. Llama 3.3 70B 0.59 / 0.79. 3,000 x 0.59 + 1,000 x 0.79 = 2,560
    Case(
        service="groq", model="llama-3.3-70b-versatile", usd="0.00256",
        usage=Usage(input_tokens=3_000, output_tokens=1_000),
    ),
    # GPT-OSS 120B 0.15 / 0.60. 2,000 x 0.15 + 100 x 0.6 = 300 + 60
    Case(
        service="groq", model="openai/gpt-oss-120b", usd="0.00036",
        usage=Usage(input_tokens=2_000, output_tokens=100),
    ),
    # Whisper V3 Large 0.111 an hour, 10 s at least. 10 / 3,600 x 0.111 = 0.00030833...: rounded
    # half-even at the 38th digit; 60 / 3,600 x 0.111 = 0.00185
    Case(
        service="groq", model="whisper-large-v3",
        usd="0.00030833333333333333333333333333333333333",
        usage=Usage(details={"audio_seconds": 2.4}),
    ),
    Case(
        service="groq", model="whisper-large-v3", usd="0.00185",
        usage=Usage(details={"input_audio_seconds": 60}),
    ),
    # Mistral: https://mistral.ai/pricing. Large 2 2.00 / 6.00. 1,500 x 2 + 250 x 6 = 4,500
    Case(
        service="mistral", model="mistral-large-2411", usd="0.0045",
        usage=Usage(input_tokens=1_500, output_tokens=250),
    ),
    # Mistral OCR 1.00 per 1,000 pages (2025-05). 12 pages = 0.012
    Case(
        service="mistral", model="mistral-ocr-2505", usd="0.012",
        usage=Usage(details={"input_document_pages": 12}),
    ),
    # DeepSeek: https://api-docs.deepseek.com/quick_start/pricing (2025-02-26 to 2025-09-05): V3
    # 0.27, cache hit 0.07, output 1.10; from 16:30 to 00:30 UTC half of that.
    # 600 x 0.27 + 400 x 0.07 + 100 x 1.1 = 162 + 28 + 110 = 300; half is 150
    Case(
        service="deepseek", model="deepseek-chat", usd="0.0003", day="2025-03-15T16:29:59",
        usage=Usage(input_tokens=1_000, cached_input_tokens=400, output_tokens=100),
    ),
    Case(
        service="deepseek", model="deepseek-chat", usd="0.00015", day="2025-03-15T16:30:00",
        usage=Usage(input_tokens=1_000, cached_input_tokens=400, output_tokens=100),
    ),
    # Cohere: https://cohere.com/pricing. Command R 08-2024 0.15 / 0.60. 2,000 x 0.15 + 500 x 0.6
    Case(
        service="cohere", model="command-r-08-2024", usd="0.0006",
        usage=Usage(input_tokens=2_000, output_tokens=500),
    ),
    # Embed v4 0.12. 10,000 x 0.12 = 1,200
    Case(
        service="cohere", model="embed-v4.0", usd="0.0012",
        usage=Usage(input_tokens=10_000, output_tokens=0),
    ),
    # xAI: https://docs.x.ai/docs/models. Grok 3 3.00, cached 0.75, output 15.00.
    # 700 x 3 + 300 x 0.75 + 200 x 15 = 2,100 + 225 + 3,000 = 5,325
    Case(
        service="x-ai", model="grok-3", usd="0.005325",
        usage=Usage(input_tokens=1_000, cached_input_tokens=300, output_tokens=200),
    ),
    # Z.ai: https://docs.z.ai/guides/overview/pricing. GLM-4.6 0.60, cached 0.11, output 2.20.
    # 900 x 0.6 + 100 x 0.11 + 100 x 2.2 = 540 + 11 + 220 = 771
    Case(
        service="zai", model="glm-4.6", usd="0.000771",
        usage=Usage(input_tokens=1_000, cached_input_tokens=100, output_tokens=100),
    ),
    # Voyage: https://docs.voyageai.com/docs/pricing. voyage-3.5 0.06. 50,000 x 0.06 = 3,000
    Case(
        service="voyageai", model="voyage-3.5", usd="0.003",
        usage=Usage(input_tokens=50_000, output_tokens=0),
    ),
    # Google Maps Platform, per 1,000 events, first paid tier:
    # https://developers.google.com/maps/billing-and-pricing/pricing (2026-09-28).
    # Place Details Pro 17.00: 1 = 0.017. Text Search Pro 32.00: 5 = 0.16.
    # Text Search Enterprise + Atmosphere 40.00: 1 = 0.04. Autocomplete 2.83: 3 = 0.00849.
    # Geocoding 5.00: 1 = 0.005. Photos 7.00: 2 = 0.014.
    Case(
        service="google_places", model="Place Details Pro", usd="0.017", usage=None,
        source="per_request",
    ),
    Case(
        service="google_places", model="text_search_pro", usd="0.16", usage=None, api_calls=5,
        source="per_request",
    ),
    Case(
        service="google_places", model="Text Search Enterprise + Atmosphere", usd="0.04",
        usage=None, source="per_request",
    ),
    Case(
        service="google_places", model="Autocomplete Requests", usd="0.00849", usage=Usage(),
        api_calls=3, source="per_request",
    ),
    Case(
        service="google_places", model="geocoding", usd="0.005", usage=None, day="2024-06-01",
        source="per_request",
    ),
    Case(
        service="google_places", model="places_photo", usd="0.014", usage=None, api_calls=2,
        source="per_request",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_costs_what_its_vendor_publishes(case: Case) -> None:
    """The amount is the vendor's list price, worked out by hand, to the last digit."""
    outcome = book().price(
        service=case.service,
        model=case.model,
        timestamp=datetime.fromisoformat(case.day).replace(tzinfo=UTC),
        usage=case.usage,
        context=case.context,
        api_calls=case.api_calls,
    )
    assert isinstance(outcome, Price), outcome
    assert outcome.cost_usd == Decimal(case.usd)
    assert outcome.source == case.source
