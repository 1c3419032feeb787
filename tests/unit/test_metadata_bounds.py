"""Metadata of any size: what is looked at is bounded, before anything is refused or cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, PutResult, UsageClient
from receipt_dynamo.entities.checks import MAX_METADATA_VALUES, shown
from receipt_label import AIUsageTracker, mask, masking
from receipt_label.masking import MAX_CHARACTERS, MAX_VALUES
from tests.support import make_metric

MANY = 200_000
CALL: dict[str, Any] = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
LEFT_OUT = {"metadata_left_out_values": MAX_METADATA_VALUES}


class Counted(Mapping[str, Any]):
    """Many keys; counts how many of them were asked for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[str]:
        for number in range(self.size):
            self.seen += 1
            yield f"key {number}"

    def __getitem__(self, key: str) -> Any:
        if key.startswith("key "):
            return 1
        raise KeyError(key)


def doubling(depth: int) -> dict[str, Any]:
    """A few small dicts, which hold each other twice: 2 ** depth values for who goes all ways."""
    inner: dict[str, Any] = {"v": 1}
    for _ in range(depth):
        inner = {"a": inner, "b": inner}
    return inner


@pytest.mark.parametrize("inside", [False, True])
def test_a_metric_looks_at_sizes_before_what_they_are_of(inside: bool) -> None:
    """Too many values are left out, which the metadata says, and the figures are kept."""
    many = Counted(MAX_METADATA_VALUES + 1)
    metric = make_metric(input_tokens=5, metadata={"a": 1, "deep": [many]} if inside else many)
    assert metric.metadata == LEFT_OUT
    assert metric.input_tokens == 5
    assert many.seen == 0


def test_as_many_values_as_the_limit_are_kept() -> None:
    """In all: those of lists and of dicts within count together."""
    most = {"a": list(range(MAX_METADATA_VALUES - 3)), "b": {"c": 1}}
    assert make_metric(metadata=most).metadata == most
    assert make_metric(metadata={**most, "d": 2}).metadata == LEFT_OUT


@pytest.mark.timeout(20)
@pytest.mark.parametrize("masked", [True, False])
def test_what_holds_itself_twice_is_no_work_without_end(client: UsageClient, masked: bool) -> None:
    """A few dicts that a walk would visit a hundred million times."""
    tracker = AIUsageTracker(client, strict=True, mask=masked)
    assert tracker.record(**CALL, input_tokens=5, metadata=doubling(26)) is PutResult.STORED
    assert [metric.input_tokens for metric in client.query()] == [5]
    assert make_metric(metadata=doubling(26)).metadata == LEFT_OUT


def test_a_tracker_looks_at_no_more_than_it_keeps(client: UsageClient) -> None:
    """20,000 values, and a key that says that there were more."""
    many = Counted(MANY)
    tracker = AIUsageTracker(client, strict=True)
    assert tracker.record(**CALL, input_tokens=5, metadata=many) is PutResult.STORED
    assert many.seen <= MAX_VALUES + 1
    (metric,) = client.query()
    assert metric.input_tokens == 5
    assert metric.metadata["[cut]"] is True
    assert len(metric.metadata) == MAX_VALUES


@pytest.mark.parametrize("how", ["context", "track", "unmasked"])
def test_a_scope_and_an_unmasked_record_look_at_none_of_too_many(
    client: UsageClient, how: str
) -> None:
    """What they carry is what a metric would: the note, and the figures."""
    many = Counted(MANY)
    tracker = AIUsageTracker(client, strict=True, mask=how != "unmasked")
    if how == "context":
        with tracker.context(metadata=many):
            tracker.record(**CALL, input_tokens=5)
    elif how == "track":
        with tracker.track("x", metadata=many, service="openai", model="gpt-4o"):
            pass
    else:
        tracker.record(**CALL, input_tokens=5, metadata={"many": many})
    assert many.seen == 0
    (metric,) = client.query()
    assert LEFT_OUT.items() <= metric.metadata.items()


SHAPES: dict[str, Any] = {
    "keys": {f"key number {n:06} of a store": n for n in range(MANY)},
    "values": {"a": [f"text number {n:06} of a store" for n in range(MANY)]},
    "both": {f"key number {n:06}": f"text number {n:06} of a store" * 3 for n in range(MANY)},
    "set": {"a": {f"text number {n:06} of a store" for n in range(MANY)}},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_short_texts_count_as_long_ones_do(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """262,144 characters are looked through in all, and 20,000 values."""
    read: list[int] = []
    mask_text = masking.mask_text

    def counting(text: str) -> str:
        read.append(len(text))
        return mask_text(text)

    monkeypatch.setattr(masking, "mask_text", counting)
    masking._clean.clear()
    masked = mask(SHAPES[shape])
    assert sum(read) <= MAX_CHARACTERS + masking._SHORT
    assert len(read) <= MAX_VALUES
    kept = masked if shape in ("keys", "both") else masked["a"]
    assert len(kept) <= MAX_VALUES
    assert "[cut]" in kept


def test_a_giant_id_is_not_read_to_its_end(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused anyway."""
    read: list[int] = []
    credentials = masking.mask_credentials

    def counting(text: str) -> str:
        read.append(len(text))
        return credentials(text)

    monkeypatch.setattr(masking, "mask_credentials", counting)
    tracker = AIUsageTracker(client)
    giant = "x" * 1_000_000
    assert tracker.record(**CALL, user_id=giant) is PutResult.DROPPED
    assert tracker.record(**{**CALL, "model": giant}) is PutResult.DROPPED
    assert max(read) <= 4096


def test_a_message_shows_no_large_value() -> None:
    """Its kind and its size, or its beginning: nothing is written out to be cut then."""
    assert shown(set(range(MANY))) == "set of 200000"
    assert shown([1, 2]) == "[1, 2]"
    assert shown("x" * MANY) == "'" + "x" * 59 + "... (str)"
    with pytest.raises(ValueError, match="metadata=list of 200000 is no dict"):
        AIUsageMetric("a", "b", "c", make_metric().timestamp, metadata=[0] * MANY)  # type: ignore[arg-type]
