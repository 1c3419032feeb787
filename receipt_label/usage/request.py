"""What the caller knows of a call, and how the reply is read in its light."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from receipt_label.usage import families
from receipt_label.usage.address import NOWHERE, Address, locate
from receipt_label.usage.batch_lines import BATCH, unwrap
from receipt_label.usage.epoch import moment_of
from receipt_label.usage.event_stream import fold
from receipt_label.usage.figures import Json, first, harmless, inner, word
from receipt_label.usage.google import camel
from receipt_label.usage.openai_chat import UNKNOWN_ALIKE, owner_of
from receipt_label.usage.plain import plain
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Fault, Reply, Skipped, Status

_FIRST_YEAR: Final = datetime(2015, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_HTTP_ERROR: Final = 400
_ID_BYTES: Final = 512

# SDKs that talk to their own vendor alone.
_SDKS: Final = {
    "mistralai": "mistral",
    "groq": "groq",
    "cohere": "cohere",
    "cerebras": "cerebras",
    "ollama": "ollama",
    "together": "together",
    "fireworks": "fireworks",
    "voyageai": "voyageai",
    "perplexity": "perplexity",
    "xai_sdk": "x-ai",
    "google": "google",
}
_MODEL_PATH: Final = re.compile(r"^(?:models/|(?:projects/.*/)?publishers/[^/]+/models/)")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Request:
    """The call as its caller knows it; every field may be unknown."""

    url: str | None
    http_status: int | None
    service: str | None
    model: str | None
    operation: str | None
    request_model: str | None
    now: Callable[[], datetime] | None

    def read(self, response: object) -> Reply | Skipped:
        """Read the reply. Raises ValueError for what is none."""
        data, module, stream, url, http_status = plain(response)
        if url is not None and self.url is None:
            self.url = url
        if http_status is not None and self.http_status is None:
            self.http_status = http_status
        where = locate(self.url) if self.url else NOWHERE
        service = self.service.strip().lower() if self.service else None
        sdk = _SDKS.get(module.split(".")[0]) if module else None
        call = Call(
            service=service or where.service or sdk,
            model=self.model or where.model or self.request_model,
        )
        if isinstance(data, Mapping):
            return self._read_object(data, call, where)
        if len(data) == 1 and not stream and not _is_chunk(data[0]):
            return self._read_object(data[0], call, where)
        return self._read_stream(data, call, where)

    def _read_stream(self, chunks: list[Json], call: Call, where: Address) -> Reply | Skipped:
        if sum(_is_whole(chunk) for chunk in chunks) > 1:
            raise ValueError(
                f"a list of {len(chunks)} replies is not one reply: read them one at a time"
            )
        body, ended = fold(chunks)
        call = call._replace(streamed=True, interrupted=not ended)
        return self._read_object(body, call, where)

    def _read_object(self, body: Json, call: Call, where: Address) -> Reply | Skipped:
        line = unwrap(body)
        if line is not None:
            return self._read_line(line.body, line.error, line.http_status, call, where)
        return self._read_body(_opened(body), call, where)

    def _read_line(
        self, body: Json, error: str | None, status: int | None, call: Call, where: Address
    ) -> Reply | Skipped:
        if status is not None:
            self.http_status = status
        if error is None:
            where = where._replace(resource=None)
            result = self._read_body(body, call, where)
            if isinstance(result, Reply):
                return msgspec.structs.replace(
                    result, price_context={**result.price_context, **BATCH}
                )
            return result
        reading = Reading(where.operation or "chat", None, body.get("model"), body.get("id"))
        reading.error = error
        reading.price_context.update(BATCH)
        return self._finish(reading, call, where)

    def _read_body(self, body: Json, call: Call, where: Address) -> Reply | Skipped:
        if where.never_billed is not None:
            return Skipped("not_usage", where.never_billed)
        if not call.interrupted:
            skipped = families.no_usage(body)
            if skipped is not None:
                return skipped
        error = self._error(body)
        adapter = families.adapter_of(body)
        if where.resource is not None and (adapter is None or not _has_usage(body)):
            return Skipped("not_usage", where.resource)
        if adapter is None:
            if error is None and not call.interrupted:
                skipped = families.unknown(body)
                if skipped is not None:
                    return skipped
            operation = where.operation or self.operation
            adapter = families.adapter_for(body, operation, call.service)
        if adapter is not None:
            reading = adapter(body, call)
        elif error is not None or call.model is not None or call.interrupted:
            reading = Reading("chat")
        else:
            raise ValueError(_unknown(body))
        if where.operation is not None and adapter is None:
            reading.operation = where.operation
        if error is not None:
            reading.error = error
            reading.response_id = reading.response_id or body.get("request_id")
        return self._finish(reading, call, where)

    def _error(self, body: Json) -> str | None:
        """Return the vendor's code for a failed call, or None. Never its message."""
        error = body.get("error")
        status = self.http_status
        if not error and body.get("Error") is None:
            return f"http_{status}" if status is not None and status >= _HTTP_ERROR else None
        block = inner(body, "error") or inner(body, "Error")
        name = word(first(block, "type", "status", "code", "Code"))
        if name is None and status is not None and status >= _HTTP_ERROR:
            name = f"http_{status}"
        return name or "error"

    def _finish(self, reading: Reading, call: Call, where: Address) -> Reply:
        """Apply what the caller and the address know, and state what is wrong."""
        status: Status = "partial" if call.interrupted else reading.status
        fault: Fault | None = None
        if reading.error is not None:
            fault, status = "failed_call", "partial" if call.interrupted else "aborted"
        elif reading.inconsistent:
            fault = "inconsistent_usage"
        elif reading.usage is None:
            fault = "no_usage"
        if reading.inconsistent:
            reading.metadata["raw_usage"] = harmless(reading.raw_usage)
        service = call.service or self._service_of(reading)
        return Reply(
            service=service,
            model=self._model(reading, where, service),
            operation=self.operation or reading.operation,
            request_model=self.request_model,
            response_id=_identity(reading.response_id),
            created=self._created(reading.created),
            usage=reading.usage,
            provider_cost_usd=reading.cost,
            price_context=reading.price_context,
            status=status,
            fault=fault,
            error=reading.error,
            metadata=reading.metadata,
            also=reading.also,
        )

    def _service_of(self, reading: Reading) -> str:
        """Return whose reply it is by its shape, or by the model where it names none itself."""
        asked = owner_of(self.request_model)
        if reading.service == UNKNOWN_ALIKE and not reading.model and asked:
            return asked
        return reading.service or asked or "unknown"

    def _model(self, reading: Reading, where: Address, service: str) -> str:
        """Return the model that served; on Bedrock by the id that it is called and priced by."""
        if self.model:
            return self.model
        asked = self.request_model
        served = reading.model if isinstance(reading.model, str) else ""
        if where.model_decides or (service == "aws" and asked and "." not in served):
            served = where.model or asked or served
        return _MODEL_PATH.sub("", served or where.model or asked or "unknown")

    def _created(self, value: object) -> datetime | None:
        if value is None:
            return None
        moment = _moment(value)
        if moment is None:
            return None
        now = (self.now or _utc_now)()
        return moment if _FIRST_YEAR <= moment <= now + _DAY else None


def _moment(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            return moment_of(value)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError, OSError, ArithmeticError):
        pass
    return None


def _identity(value: object) -> str | None:
    """Return the vendor's id as it is; a number as its digits; None where empty or absurd."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value and len(value.encode(errors="replace")) <= _ID_BYTES:
        return value
    return None


def _opened(body: Json) -> Json:
    """Take a reply out of the event or envelope that carries it."""
    if "response" in body:
        inside = body["response"]
        kind = body.get("type")
        if isinstance(inside, Mapping) and isinstance(kind, str) and kind.startswith("response."):
            return inside if "object" in inside else {"object": "response", **inside}
    if "success" in body:  # Cloudflare
        result = body.get("result")
        if isinstance(result, Mapping):
            return result
    return camel(body)


def _is_chunk(body: Json) -> bool:
    kind = first(body, "type", "event_type")
    if body.get("object") == "chat.completion.chunk" or "candidates" in body:
        return True
    return isinstance(kind, str) and ("_" in kind or "." in kind or "-" in kind)


def _is_whole(body: Json) -> bool:
    return (
        "custom_id" in body
        or body.get("type") == "message"
        or body.get("object") in ("chat.completion", "response", "text_completion")
    )


def _has_usage(body: Json) -> bool:
    return any(isinstance(body.get(key), Mapping) for key in ("usage", "usageMetadata"))


def _unknown(body: Json) -> str:
    names = ", ".join(sorted(word(key) or "?" for key in body)[:6])
    return (
        f"not a reply of a service known here: an object with the keys {names}. "
        "If it is one, say of which service: service= and model= in Python, --service on the "
        "command line."
    )
