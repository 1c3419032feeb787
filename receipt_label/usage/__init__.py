"""From what an AI service sent to one normalised reading of it.

:func:`read_reply` is the whole of it. Each family of vendors has a module of its own; what they
return is :class:`Reply`, or :class:`Skipped` for what is no finished, billable reply.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from receipt_label.usage.reply import Fault, Reply, Skipped, Status, Usage
from receipt_label.usage.request import Request

__all__ = ["Fault", "Reply", "Skipped", "Status", "Usage", "read_reply"]


def read_reply(
    response: object,
    *,
    url: str | None = None,
    http_status: int | None = None,
    service: str | None = None,
    model: str | None = None,
    operation: str | None = None,
    request_model: str | None = None,
    now: Callable[[], datetime] | None = None,
) -> Reply | Skipped:
    """Return what one call of an AI service used.

    ``response`` is what the vendor sent: an SDK's object, a dict, the text of JSON or of an event
    stream (SSE or JSON lines), or the list of a stream's chunks. It is neither changed nor
    consumed.

    ``service``, ``model`` and ``operation`` win over what the reply says; ``request_model`` is the
    model that was asked for and stands in where the reply names none. ``url`` and ``http_status``
    are those of the HTTP call, where known. ``now`` is for tests.

    The service is, in this order: the one given; the one of the url's host or, behind a gateway,
    path; the one of a vendor's own SDK; the one that the reply's shape tells; ``openai`` only for
    models that OpenAI alone serves; else ``openai_compatible``, or ``unknown``.

    Raises ValueError, with one message that says what to pass instead, only for what is no reply at
    all. Whatever a vendor wrote is read: figures that contradict each other leave ``usage`` None
    with fault ``inconsistent_usage``, and are kept in ``metadata["raw_usage"]``.
    """
    request = Request(
        url=url,
        http_status=http_status,
        service=service,
        model=model,
        operation=operation,
        request_model=request_model,
        now=now,
    )
    return request.read(response)
