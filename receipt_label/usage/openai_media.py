"""Images, transcriptions, speech and video of OpenAI and alike."""

from __future__ import annotations

from collections.abc import Mapping

from receipt_label.usage.figures import Json, first
from receipt_label.usage.openai_chat import alike_service
from receipt_label.usage.openai_usage import openai_cost, openai_usage
from receipt_label.usage.reading import Call, Reading


def read_images(body: Json, call: Call) -> Reading:
    """Read generated images. Without a breakdown all output tokens are image tokens.

    OpenAI's own words for the older block: "The number of image tokens in the output image".
    DALL-E reports no usage.
    """
    service = call.service or alike_service(body)
    reading = Reading(
        "image_generation",
        service,
        body.get("model"),
        body.get("id"),
        first(body, "created", "created_at"),
    )
    raw = body.get("usage")
    reading.measure(raw, lambda usage: openai_usage(usage, service, output_kind="image"))
    if isinstance(raw, Mapping):
        reading.cost = openai_cost(raw, service)
    return reading


def read_transcription(body: Json, call: Call) -> Reading:
    """Read a transcription: billed by tokens, or by the seconds of the input."""
    service = call.service or alike_service(body)
    reading = Reading("transcription", service, body.get("model"), body.get("id"))
    raw = body.get("usage")
    if raw is None and "duration" in body:
        # verbose_json: "The duration of the input audio", which is what whisper bills.
        raw = {"type": "duration", "seconds": body["duration"]}
        if isinstance(raw["seconds"], str):  # older whisper wrote "8.47"
            raw["seconds"] = _seconds(raw["seconds"])
    reading.measure(raw, lambda usage: openai_usage(usage, service))
    return reading


def _seconds(text: object) -> object:
    try:
        return float(str(text))
    except ValueError:
        return text


def read_video(body: Json, call: Call) -> Reading:
    """Read a finished video job. It reports its length as a request parameter, no usage."""
    service = call.service or alike_service(body)
    return Reading(
        "video_generation", service, body.get("model"), body.get("id"), body.get("created_at")
    )
