"""What a line says about a call."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from receipt_label.importers.shapes import Entry, entry_of

EIGHT = datetime(2026, 11, 21, 20, tzinfo=UTC)


def test_a_plain_reply_is_itself() -> None:
    """Whatever is no envelope goes to the reader as it is."""
    reply = {"id": "x", "usage": {}}

    assert entry_of(reply) == Entry(reply)


def test_an_envelope_is_opened() -> None:
    """Address, status and requested model come from the envelope, the reply from its body."""
    entry = entry_of(
        {
            "url": "https://api.openai.com/v1/chat/completions",
            "status": 200,
            "request_model": "gpt-4o",
            "body": {"id": "x"},
            "timestamp": "2026-11-21T20:00:00Z",
            "source": "tape",
        }
    )

    assert entry == Entry(
        {"id": "x"}, "https://api.openai.com/v1/chat/completions", 200, "gpt-4o", EIGHT
    )


def test_the_stream_of_an_envelope_is_its_reply() -> None:
    """Where the reply was streamed the text of the stream stands in place of the body."""
    assert entry_of({"url": "u", "stream": "data: {}\n\n"}).response == "data: {}\n\n"


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-21T20:00:00+00:00",
        "2026-11-21T21:00:00+01:00",
        "2026-11-21T20:00:00",
        1795291200,
        Decimal("1795291200.0"),
        1795291200000,
    ],
)
def test_a_time_is_read_in_every_usual_form(time: Any) -> None:
    """ISO 8601 (UTC where it has no offset), seconds and milliseconds since 1970."""
    assert entry_of({"url": "u", "body": {}, "timestamp": time}).timestamp == EIGHT


@pytest.mark.parametrize("time", ["yesterday", {}, True, 10**30, Decimal("NaN"), "10000-01-01"])
def test_an_envelope_with_a_wrong_time_is_a_bad_line(time: Any) -> None:
    """A call is never filed under a day that its line does not say."""
    with pytest.raises(ValueError, match="is no time"):
        entry_of({"url": "u", "body": {}, "timestamp": time})


def test_the_timestamp_of_a_plain_reply_may_mean_anything() -> None:
    """It is the vendor's word there; one that is no time is let be."""
    assert entry_of({"id": "x", "timestamp": "t-17"}).timestamp is None
    assert entry_of({"id": "x", "timestamp": "2026-11-21T20:00:00Z"}).timestamp == EIGHT


@pytest.mark.parametrize("value", [7, True, None, "text", Decimal("1.5")])
def test_what_is_no_object_is_no_reply(value: Any) -> None:
    """A number or a word on a line is a bad line."""
    with pytest.raises(ValueError, match="not a reply"):
        entry_of(value)


def test_the_request_of_a_batch_is_not_taken_for_its_result() -> None:
    """The input file of a batch looks much like its output; it holds no usage."""
    request = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}

    with pytest.raises(ValueError, match="output file"):
        entry_of(request)
