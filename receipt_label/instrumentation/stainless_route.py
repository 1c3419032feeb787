"""Where a request of a Stainless client goes, and whether it may be a call."""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

from receipt_label.usage.address import locate
from receipt_label.usage.quick import QuickReader, quick_reader

__all__ = ["Route", "keeps_its_base_url", "route"]


class Route(NamedTuple):
    """Where a request goes. ``watched``: it may be a call, or bring the end of one."""

    url: str
    operation: str | None
    fetches: bool
    watched: bool
    quick: QuickReader | None


@functools.lru_cache(maxsize=512)
def route(base: str, method: str, path: str, service: str | None) -> Route:
    """Return where a request to ``path``, or to a whole URL, goes."""
    absolute = path.startswith(("http://", "https://"))
    url = path if absolute else f"{base.rstrip('/')}/{path.lstrip('/')}"
    where = locate(url)
    fetches = method.upper() == "GET"
    watched = where.never_billed is None and (fetches or where.operation is not None)
    quick = None if fetches else quick_reader(url, service)
    return Route(url, where.operation, fetches, watched, quick)


def keeps_its_base_url(client: Any) -> bool:
    """Whether the address is what the SDK's own property finds in the client, and no subclass of
    the user's says otherwise."""
    found = inspect.getattr_static(type(client), "base_url", None)
    getter = found.fget if isinstance(found, property) else None
    return getattr(getter, "__module__", "").endswith("._base_client") and (
        "_base_url" in vars(client)
    )
