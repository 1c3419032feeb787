"""Exact JSON, and the identity of a line that carries none."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_label.importers.exact_json import canonical, line_id, parse

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_numbers_are_read_exactly() -> None:
    """A fraction becomes the Decimal that was written, a large whole number stays an int."""
    value = parse(b'{"cost": 0.1, "big": 123456789012345678901234567890}')

    assert value == {"cost": Decimal("0.1"), "big": 123456789012345678901234567890}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":2}', b'{ "b" : 2, "a" : 1 }\r\n'),
        (b"[1.50]", b"[1.5]"),
        (b"[1E2]", b"[100]"),
        (b"[100.0]", b"[100]"),
        (b"[-0.0]", b"[0]"),
        (b"[1e-7]", b"[0.0000001]"),
        (b"[1e400]", b"[10e399]"),
        ('["é"]'.encode(), b'["\\u00e9"]'),
    ],
)
def test_spelling_does_not_change_the_identity(one: bytes, other: bytes) -> None:
    """Order of keys, spaces, escapes and the spelling of a number leave the id of a line alone."""
    assert line_id(parse(one)) == line_id(parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"[1]", b"[2]"),
        (b'["1"]', b"[1]"),
        (b"[true]", b"[1]"),
        (b"[null]", b'["null"]'),
        (b"[0.1]", b"[0.1000000000000000000000000001]"),
        (b"[9007199254740993]", b"[9007199254740992]"),
    ],
)
def test_another_value_has_another_identity(one: bytes, other: bytes) -> None:
    """Values that a float would round to one stay two."""
    assert line_id(parse(one)) != line_id(parse(other))


@given(_JSON)
def test_canonical_is_json_with_sorted_keys_and_no_spaces(value: object) -> None:
    """For values without fractions the form is the one that json.dumps writes."""
    expected = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert canonical(value) == expected


def test_the_id_is_the_sha256_of_the_canonical_form() -> None:
    """Another program can work out the id: sha256- and the first 32 hexadecimal digits."""
    digest = hashlib.sha256(b'{"a":[1.5,null],"b":"x"}').hexdigest()

    assert line_id(parse(b'{"b":"x","a":[1.50,null]}')) == f"sha256-{digest[:32]}"


def test_a_lone_surrogate_has_an_identity() -> None:
    """A cut emoji, as streams leave them, is no reason to refuse a line."""
    assert line_id(parse(b'{"text":"\\ud83d"}')).startswith("sha256-")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": "\xff"}', "not UTF-8 (byte 8)"),
        (b'{"a": 1', "truncated JSON"),
        (b'{"a": "b', "truncated JSON"),
        (b"{a: 1}", "not JSON: Expecting property name"),
        (b'{"a": 1} x', "not JSON: Extra data (column 10)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "too many digits"),
        (b"1e99999999999999999999", "too large or too small"),
    ],
)
def test_what_is_no_json_says_why(data: bytes, reason: str) -> None:
    """The reason is a few words that name the fault and its place."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse(data)

    assert reason in str(caught.value)
    assert len(str(caught.value)) < 100
