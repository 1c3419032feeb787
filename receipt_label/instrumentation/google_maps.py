"""Google Maps Platform through ``googlemaps.Client``: one record a request, priced by its SKU.

Every method ends in ``_request``, which calls itself to try again: the outermost call is the
request. Which SKU a request is billed under follows from its address and its parameters (Google,
"Legacy Places and Routes SKU details"):

- Place Details and Find Place are billed for the kinds of data that are asked for beside the
  request itself: contact data (opening hours, telephone, website) and atmosphere data (ratings,
  reviews, price level). Place Details without ``fields`` asks for all, Find Place for the id alone.
- Nearby Search and Text Search return all kinds, and are billed for them.
- The id alone is free, of Find Place and of Place Details.

A record's model is the SKU of the request; its cost includes the data SKUs, which are named in
``metadata["data_skus"]``. ``ZERO_RESULTS`` is an answer and billed like one; what fails is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from receipt_label.instrumentation.calls import Call, Instrument, observe
from receipt_label.instrumentation.twins import Twin, state_of, twin_of
from receipt_label.usage.figures import word

__all__ = ["wrap"]

SERVICE: Final = "google_places"
_HTTP_ERROR: Final = 400
_PLACE: Final = "/maps/api/place/"

_CONTACT: Final = frozenset(
    "opening_hours current_opening_hours secondary_opening_hours formatted_phone_number "
    "international_phone_number website".split()
)
_ATMOSPHERE: Final = frozenset(
    "price_level rating user_ratings_total review reviews editorial_summary curbside_pickup "
    "delivery dine_in reservable takeout serves_beer serves_breakfast serves_brunch serves_dinner "
    "serves_lunch serves_vegetarian_food serves_wine".split()
)
_ALL_DATA: Final = "contact+atmosphere"


class Sku(NamedTuple):
    """What a request is billed as: the SKU of the request, and the data SKUs beside it."""

    operation: str
    model: str
    data: str = ""


_PLAIN: Final = {
    f"{_PLACE}textsearch/json": Sku("text_search", "Places - Text Search", _ALL_DATA),
    f"{_PLACE}nearbysearch/json": Sku("nearby_search", "Places - Nearby Search", _ALL_DATA),
    f"{_PLACE}queryautocomplete/json": Sku(
        "query_autocomplete", "Query Autocomplete - Per Request"
    ),
    f"{_PLACE}photo": Sku("place_photo", "Places Photo"),
    "/maps/api/geocode/json": Sku("geocode", "Geocoding"),
    # Sold by the element or by a list that is not bundled: counted, and unpriced.
    "/maps/api/directions/json": Sku("directions", "Directions"),
    "/maps/api/distancematrix/json": Sku("distance_matrix", "Distance Matrix"),
    "/maps/api/elevation/json": Sku("elevation", "Elevation"),
    "/maps/api/timezone/json": Sku("timezone", "Time Zone"),
    "/maps/api/staticmap": Sku("static_map", "Static Maps"),
    "/geolocation/v1/geolocate": Sku("geolocate", "Geolocation"),
    "/v1:validateAddress": Sku("validate_address", "Address Validation"),
    "/v1/snapToRoads": Sku("snap_to_roads", "Roads - Route Traveled"),
    "/v1/nearestRoads": Sku("nearest_roads", "Roads - Nearest Road"),
    "/v1/speedLimits": Sku("speed_limits", "Roads - Speed Limits"),
}


def sku_of(path: str, params: Mapping[str, Any]) -> Sku | None:
    """Return what a request is billed as, or None for an address that is not known here."""
    asked = _fields(params)
    if path == f"{_PLACE}details/json":
        if asked == {"place_id"}:
            return Sku("place_details", "Place Details - ID Refresh")
        return Sku("place_details", "Places - Place Details", _data(asked))
    if path == f"{_PLACE}findplacefromtext/json":
        if not asked or asked == {"place_id"}:
            return Sku("find_place", "Find Place - ID Only")
        return Sku("find_place", "Places - Find Place", _data(asked))
    if path == f"{_PLACE}autocomplete/json":
        # Google bills a session as one, depending on how it ends: no price for its parts.
        session = bool(params.get("sessiontoken"))
        kind = "Session" if session else "Request"
        return Sku("autocomplete", f"Autocomplete - Per {kind}")
    return _PLAIN.get(path)


def _fields(params: Mapping[str, Any]) -> set[str]:
    fields = params.get("fields")
    names = fields.split(",") if isinstance(fields, str) else fields or ()
    return {str(name).partition("/")[0] for name in names}


def _data(asked: set[str]) -> str:
    """Return the data SKUs of these fields; none named is all of them."""
    if not asked or "*" in asked:
        return _ALL_DATA
    kinds = (("contact", _CONTACT), ("atmosphere", _ATMOSPHERE))
    return "+".join(name for name, fields in kinds if not fields.isdisjoint(asked))


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose requests are recorded. ``include_usage`` changes
    nothing.

    Raises TypeError for what is no client.
    """
    if not callable(getattr(client, "_request", None)):
        kind = type(client)
        raise TypeError(
            f"cannot wrap {kind.__module__}.{kind.__qualname__}: pass a googlemaps.Client"
        )
    return twin_of(client, _Client, instrument)


class _Client(Twin):
    """The client's one method for every request, looked at."""

    __slots__ = ()

    def _request(self, url: str, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a request; what is tried again calls this again, which the outermost counts."""
        send: Any = super()._request  # type: ignore[misc]  # of googlemaps' class, beneath this one
        if _is_retry(*args, **kwargs):
            return send(url, params, *args, **kwargs)
        return observe(
            send,
            lambda args, kwargs: _begin(self, url, params),
            _answered,
        )(url, params, *args, **kwargs)


def _is_retry(
    first_request_time: object = None, retry_counter: object = 0, *_args: object, **_kwargs: object
) -> bool:
    """Whether these arguments, behind address and parameters, are those of another attempt."""
    return bool(retry_counter)


class _Request(Call):
    """A request that has a SKU."""

    sku: Sku

    def fail(
        self,
        error: BaseException,
        *,
        http_status: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that it failed, with the status that the API gave it."""
        api_status = word(getattr(error, "status", None))
        known = {"api_status": api_status} if api_status else {}
        super().fail(error, http_status=http_status, metadata={**known, **(metadata or {})})


def _begin(client: Any, url: str, params: Any) -> Call | None:
    extra = getattr(client, "_extra_params", None) or {}
    sku = sku_of(url, {**dict(params), **dict(extra)})
    instrument: Instrument = state_of(client)
    if sku is None:
        return None
    return _Request(instrument, None, SERVICE, sku.operation, sku.model, instrument.clock(), sku)


class HTTPError(Exception):
    """A photo or a map that was refused: their answers are handed over whatever their status."""


def _answered(call: Any, answer: Any) -> Any:
    """Record an answer, ``ZERO_RESULTS`` too."""
    sku: Sku = call.sku
    status = getattr(answer, "status_code", None)
    if isinstance(status, int) and status >= _HTTP_ERROR:
        call.fail(HTTPError(), http_status=status)
        return answer
    call.instrument.tracker.record(
        service=SERVICE,
        model=sku.model,
        operation=sku.operation,
        price_context={"data": sku.data} if sku.data else None,
        latency_ms=call.elapsed_ms(),
        metadata={"data_skus": sku.data} if sku.data else None,
    )
    return answer
