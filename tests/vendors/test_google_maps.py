"""googlemaps: each request counts once, under the SKU that Google bills it by."""

from __future__ import annotations

import collections
import copy
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import googlemaps
import pytest

from receipt_dynamo import AIUsageMetric
from receipt_label import AIUsageTracker
from receipt_label.instrumentation.google_maps import sku_of
from tests.support.vendor_server import Answer, VendorServer, reply
from tests.vendors.conftest import Records

KEY = "AIza" + "-stand-in"
OK = reply({"status": "OK", "result": {"name": "x"}, "results": [{"a": 1}], "predictions": []})
ALL = "contact+atmosphere"
Client = Callable[..., googlemaps.Client]


@pytest.fixture
def client_of(server: VendorServer) -> Iterator[Client]:
    """Make clients that talk to the server."""
    made: list[googlemaps.Client] = []

    def make(**changes: Any) -> googlemaps.Client:
        one = googlemaps.Client(key=KEY, base_url=server.url, **changes)
        made.append(one)
        return one

    yield make
    for one in made:
        one.session.close()


Row = tuple[Callable[[Any], Any], str, str, str, str]
CALLS: dict[str, Row] = {
    # method: the call, operation, SKU, data SKUs, cost
    "places": (
        lambda maps: maps.places("market"),
        "text_search", "Places - Text Search", ALL, "0.04",
    ),
    "places, next page": (
        lambda maps: maps.places(page_token="next"),  # noqa: S106
        "text_search", "Places - Text Search", ALL, "0.04",
    ),
    "places_nearby": (
        lambda maps: maps.places_nearby(location=(1, 2), radius=100),
        "nearby_search", "Places - Nearby Search", ALL, "0.04",
    ),
    "place": (
        lambda maps: maps.place("id"),
        "place_details", "Places - Place Details", ALL, "0.025",
    ),
    "place, basic": (
        lambda maps: maps.place("id", fields=["name", "geometry/location/lat", "place_id"]),
        "place_details", "Places - Place Details", "", "0.017",
    ),
    "place, contact": (
        lambda maps: maps.place("id", fields=["name", "website"]),
        "place_details", "Places - Place Details", "contact", "0.02",
    ),
    "place, atmosphere": (
        lambda maps: maps.place("id", fields=["rating"]),
        "place_details", "Places - Place Details", "atmosphere", "0.022",
    ),
    "place, both": (
        lambda maps: maps.place("id", fields=["price_level", "opening_hours"]),
        "place_details", "Places - Place Details", ALL, "0.025",
    ),
    "place, its id": (
        lambda maps: maps.place("id", fields=["place_id"]),
        "place_details", "Place Details - ID Refresh", "", "0",
    ),
    "find_place": (
        lambda maps: maps.find_place("market", "textquery"),
        "find_place", "Find Place - ID Only", "", "0",
    ),
    "find_place, basic": (
        lambda maps: maps.find_place("market", "textquery", fields=["name"]),
        "find_place", "Places - Find Place", "", "0.017",
    ),
    "find_place, both": (
        lambda maps: maps.find_place("market", "textquery", fields=["opening_hours", "rating"]),
        "find_place", "Places - Find Place", ALL, "0.025",
    ),
    "places_autocomplete": (
        lambda maps: maps.places_autocomplete("mar"),
        "autocomplete", "Autocomplete - Per Request", "", "0.00283",
    ),
    "places_autocomplete, session": (
        lambda maps: maps.places_autocomplete("mar", session_token="s"),  # noqa: S106
        "autocomplete", "Autocomplete - Per Session", "", "unknown_model",
    ),
    "places_autocomplete_query": (
        lambda maps: maps.places_autocomplete_query("mar"),
        "query_autocomplete", "Query Autocomplete - Per Request", "", "0.00283",
    ),
    "places_photo": (
        lambda maps: maps.places_photo("ref", max_width=100),
        "place_photo", "Places Photo", "", "0.007",
    ),
    "geocode": (lambda maps: maps.geocode("x"), "geocode", "Geocoding", "", "0.005"),
    "reverse_geocode": (
        lambda maps: maps.reverse_geocode((1, 2)),
        "geocode", "Geocoding", "", "0.005",
    ),
    "directions": (
        lambda maps: maps.directions("a", "b"),
        "directions", "Directions", "", "unknown_model",
    ),
    "timezone": (
        lambda maps: maps.timezone((1, 2), timestamp=1_700_000_000),
        "timezone", "Time Zone", "", "unknown_model",
    ),
}  # fmt: skip


def seen(value: Any) -> Any:
    """All that a caller sees of a result; of a photo's pieces, all bytes."""
    return b"".join(value) if hasattr(value, "__next__") else value


def cost(record: AIUsageMetric) -> str:
    return record.unpriced_reason or f"{record.cost_usd.normalize():f}"


@pytest.mark.parametrize("name", CALLS)
def test_a_method_is_the_same_wrapped_and_counts_once(
    name: str, server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Equal results, equal requests, one record under the SKU with its price."""
    call, operation, sku, data, price = CALLS[name]
    results, wire = [], []
    for client in (client_of(), tracker.wrap(client_of())):
        server.script(OK)
        with tracker.context(job_id="labels"):
            results.append(seen(call(client)))
        wire.append([asked.comparable() for asked in server.clear()])
    assert results[0] == results[1]
    assert wire[0] == wire[1]
    (record,) = records()
    assert (record.service, record.operation, record.model) == ("google_places", operation, sku)
    assert cost(record) == price
    assert record.metadata.get("data_skus", "") == data
    assert (record.status, record.job_id, record.api_calls) == ("complete", "labels", 1)
    assert record.latency_ms is not None


def test_every_field_that_the_library_knows_is_sorted() -> None:
    """Its own lists of contact and atmosphere fields are the ones here."""
    from googlemaps import places

    for name in sorted(places.PLACES_DETAIL_FIELDS | places.PLACES_FIND_FIELDS):
        contact = name in places.PLACES_DETAIL_FIELDS_CONTACT | places.PLACES_FIND_FIELDS_CONTACT
        atmosphere = name in (
            places.PLACES_DETAIL_FIELDS_ATMOSPHERE | places.PLACES_FIND_FIELDS_ATMOSPHERE
        )
        sku = sku_of("/maps/api/place/details/json", {"fields": f"name,{name}"})
        assert sku is not None
        assert sku.data == ("contact" if contact else "atmosphere" if atmosphere else ""), name


def test_each_page_is_a_request_of_its_own(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Google bills the next page like the first."""
    client = tracker.wrap(client_of())
    server.script(*[reply({"status": "OK", "results": [], "next_page_token": "n"})] * 3)
    page = client.places("market")
    for _ in range(2):
        page = client.places("market", page_token=page["next_page_token"])
    assert [cost(record) for record in records()] == ["0.04"] * 3


def test_zero_results_are_an_answer_and_billed(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """A search that found nothing was a search."""
    server.script(reply({"status": "ZERO_RESULTS", "results": []}))
    assert tracker.wrap(client_of()).places_nearby(location=(1, 2), radius=5)["results"] == []
    (record,) = records()
    assert (record.status, cost(record)) == ("complete", "0.04")


REFUSALS: dict[str, tuple[Answer, type[Exception], dict[str, Any]]] = {
    "ApiError": (
        reply({"status": "REQUEST_DENIED", "error_message": "secret text"}),
        googlemaps.exceptions.ApiError,
        {"api_status": "REQUEST_DENIED"},
    ),
    "HTTPError": (
        reply({}, status=403),
        googlemaps.exceptions.HTTPError,
        {"http_status": 403},
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_request_that_fails_is_not_billed_and_raises_as_before(
    name: str, server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """It is recorded with its type and status, never with the message."""
    said, kind, told = REFUSALS[name]
    server.script(said)
    with pytest.raises(kind):
        tracker.wrap(client_of()).place("id")
    (record,) = records()
    assert (record.error, record.status) == (name, "aborted")
    assert (record.unpriced_reason, record.model) == ("failed_call", "Places - Place Details")
    assert record.metadata == told
    assert "secret" not in str(record)


def test_a_photo_that_is_refused_is_handed_over_and_not_billed(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The library gives out the answer whatever its status; Google bills none of these."""
    server.script(Answer(b"no such photo", status=400, content_type="text/html"))
    photo = tracker.wrap(client_of()).places_photo("ref", max_width=9)
    assert b"".join(photo) == b"no such photo"
    (record,) = records()
    assert (record.error, record.unpriced_reason) == ("HTTPError", "failed_call")
    assert record.metadata["http_status"] == 400


def test_what_the_library_tries_again_counts_once(
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Statuses and limits that it retries by itself, with an answer at last (trouble 35)."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.script(reply({}, status=503), reply({"status": "OVER_QUERY_LIMIT"}), OK)
    tracker.wrap(client_of()).geocode("x")
    assert len(server.requests) == 3
    (record,) = records()
    assert (record.status, cost(record)) == ("complete", "0.005")


def test_the_wrapped_client_is_a_client_and_the_bare_one_stays_bare(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Same type and state; wrapped twice it counts once (trouble 31)."""
    bare = client_of()
    client = tracker.wrap(tracker.wrap(bare))
    assert isinstance(client, googlemaps.Client)
    assert type(client).__name__ == "Client"
    assert client.session is bare.session
    client.set_experience_id("one")
    assert bare.get_experience_id() == "one"
    server.script(OK, OK)
    bare.geocode("x")
    assert records() == []
    client.geocode("x")
    assert len(records()) == 1
    with pytest.raises(TypeError, match=r"pass a googlemaps\.Client"):
        tracker.wrap(googlemaps.exceptions.ApiError("x"))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_wrapped_client_counts_once(
    copied: Callable[[Any], Any],
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    records: Records,
) -> None:
    """As the bare one, it can be copied, deeply too."""
    server.script(OK)
    one = copied(tracker.wrap(client_of()))
    one.geocode("x")
    one.session.close()
    assert [record.operation for record in records()] == ["geocode"]


def test_extra_parameters_tell_the_sku_too(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Fields given past the library's own check."""
    server.script(OK)
    tracker.wrap(client_of()).place("id", extra_params={"fields": "name,rating"})
    (record,) = records()
    assert cost(record) == "0.022"


def test_threads_keep_their_own_jobs(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """8 threads, 5 requests each: every one under its own job, none lost."""
    server.script(*[OK] * 40)
    clients = [tracker.wrap(client_of(queries_per_second=10_000)) for _ in range(8)]

    def work(number: int) -> None:
        with tracker.context(job_id=f"thread-{number}"):
            for _ in range(5):
                clients[number].geocode("x")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = records()
    assert collections.Counter(record.job_id for record in found) == {
        f"thread-{number}": 5 for number in range(8)
    }
    assert sum((record.cost_usd or Decimal(0) for record in found), Decimal(0)) == Decimal("0.2")


def test_tracking_that_fails_changes_nothing(
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever raises in the tracking, the caller gets the answer."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("tracking is broken")

    client = tracker.wrap(client_of())
    for place in (
        "receipt_label.tracker.AIUsageTracker.record",
        "receipt_label.instrumentation.google_maps.sku_of",
        "receipt_label.instrumentation.google_maps._Request.__init__",
    ):
        with monkeypatch.context() as broken:
            broken.setattr(place, fail)
            server.script(OK)
            assert client.geocode("x") == [{"a": 1}]
