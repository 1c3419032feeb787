"""receipt-usage prices: what a model costs, and where the price is from."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

PRICES = """
[[price]]
service = "openai"
model = "gpt-4o"
effective_from = 2026-01-01
rates = { input_tokens = "1.25", output_tokens = "5" }

[[price]]
service = "mine"
model = "own-model"
free = true
"""


@pytest.fixture
def price_file(usage_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own price file."""
    assert usage_dir  # which clears the variable first
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    monkeypatch.setenv("RECEIPT_USAGE_PRICES", str(path))
    return path


def test_show_as_json_says_rate_unit_source_and_period(run: Run) -> None:
    """Money is a decimal string, per so many units; batch and other variants follow."""
    entries = run("prices", "show", "gpt-4o", "--service", "openai", "--json").json

    first = entries[0]
    assert (first["service"], first["model"]) == ("openai", "gpt-4o")
    assert (first["source"], first["when"]) == ("genai-prices", {})
    assert {"unit": "input_tokens", "usd": "2.5", "per": 1_000_000, "tiers": []} in first["rates"]
    assert {"processing": "batch"} in [entry["when"] for entry in entries]


def test_show_as_a_table(run: Run) -> None:
    """Rates, tiers by context length, and variants, for people."""
    out = run("prices", "show", "gemini-2.5-pro", "--service", "google").out

    assert "1M input_tokens" in out
    assert "above 200,000 input tokens" in out
    assert "batch" in out


@pytest.mark.usefixtures("price_file")
def test_the_users_own_price_comes_first(run: Run) -> None:
    """An override stands above the list price, from the day on that it names."""
    today = run("prices", "show", "gpt-4o", "--service", "openai", "--json").json
    before = run(
        *("prices", "show", "gpt-4o", "--service", "openai", "--at", "2025-12-31", "--json")
    ).json

    assert today[0]["source"] == "override"
    assert today[0]["effective_from"] == "2026-01-01T00:00:00Z"
    assert Decimal(today[0]["rates"][0]["usd"]) == Decimal("1.25")
    assert before[0]["source"] == "genai-prices"


@pytest.mark.usefixtures("price_file")
def test_a_model_declared_free_says_so(run: Run) -> None:
    """Free by declaration is not the same as unknown."""
    assert "free" in run("prices", "show", "own-model").out


def test_an_unknown_model_is_a_fault_that_says_what_to_do(run: Run) -> None:
    """One line, exit code 1, and nothing that looks like a price."""
    ran = run("prices", "show", "no-such-model-at-all")

    assert (ran.code, ran.out) == (1, "")
    assert "RECEIPT_USAGE_PRICES" in ran.one_error
    assert run("prices", "show", "no-such-model-at-all", "--json").json == []


def test_a_wrong_date_is_wrong_usage(run: Run) -> None:
    """Exit code 2 with the form that a time has."""
    ran = run("prices", "show", "gpt-4o", "--at", "noon")

    assert ran.code == 2
    assert "2026-11-21T20:00:00Z" in ran.one_error


@pytest.mark.usefixtures("price_file")
def test_list_names_models_the_users_own_first(run: Run) -> None:
    """Every model with a price, of all services or of one."""
    everything = run("prices", "list", "--json").json
    groq = run("prices", "list", "--service", "groq", "--json").json

    assert everything[0]["source"] == "override"
    assert set(everything[0]) == {"service", "model", "source", "version", "note"}
    assert {entry["service"] for entry in groq} == {"groq"}
    assert len(everything) > len(groq) > 5
    assert "groq" in run("prices", "list", "--service", "groq").out


def test_list_of_an_unknown_service_is_a_fault(run: Run) -> None:
    """One line, exit code 1."""
    ran = run("prices", "list", "--service", "nobody")

    assert ran.code == 1
    assert "nobody" in ran.one_error


@pytest.fixture
def wildcards(price_file: Path) -> Path:
    """Rules for whatever a service sells, one with a note, one with a name in capitals."""
    price_file.write_text(
        """
        [[price]]
        service = "aws"
        model = "*"
        batch_multiplier = "0.5"
        [[price]]
        service = "ollama"
        model = "*"
        free = true
        [[price]]
        service = "together"
        model = ["Qwen/Own-7B", "GPT-5"]
        rates = { input_tokens = 1, cached_input_tokens = "0.5", reasoning_tokens = 2 }
        note = "contract 4711"
        """
    )
    return price_file


@pytest.mark.usefixtures("wildcards")
def test_units_and_names_are_those_of_documents_and_vendors(run: Run) -> None:
    """Units as a price file spells them, models as their seller or the file spells them."""
    out = run("prices", "show", "gpt-5").out
    rates = run("prices", "show", "gpt-5", "--json").json[0]["rates"]

    assert "cached_input_tokens" in out
    assert "reasoning_tokens" in out
    assert "cache_read_tokens" not in out
    assert "output_reasoning_tokens" not in out
    assert [rate["unit"] for rate in rates] == [
        *("input_tokens", "cached_input_tokens", "reasoning_tokens")
    ]
    assert "GPT-5 of together, from override [1]" in out.splitlines()
    assert "Qwen/Own-7B of together" in run("prices", "show", "qwen/own-7b").out
    assert "Qwen/Own-7B" in run("prices", "list", "--service", "together").out


@pytest.mark.usefixtures("wildcards")
def test_a_rule_for_any_model_does_not_say_that_a_service_sells_this_one(run: Run) -> None:
    """It is shown for the service that is asked for, and beside a price of that service."""
    services = {entry["service"] for entry in run("prices", "show", "gpt-5", "--json").json}
    unknown = run("prices", "show", "no-such-model-at-all")

    assert {"openai", "together"} <= services
    assert not {"aws", "ollama"} & services
    assert unknown.code == 1
    assert "rules for any model of aws, ollama" in unknown.one_error
    asked = run("prices", "show", "gemma", "--service", "ollama").out
    assert asked.splitlines() == ["rule for any model of ollama, from declared_free", "    free"]


@pytest.mark.usefixtures("wildcards")
@pytest.mark.parametrize("width", [60, 80])
def test_prices_are_readable_in_a_common_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """A model is named once, its prices stand below; notes are numbered, tied and wrapped."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    lines = run("prices", "show", "gpt-5").out.splitlines()

    assert max(map(len, lines)) <= width
    assert sum(line.startswith("gpt-5 of openai") for line in lines) == 1
    assert "gpt-5 of openai, from genai-prices [2]" in lines
    assert "[1] contract 4711" in lines
    assert sum(line.startswith("[2] ") for line in lines) == 1
