"""What a mask replaces, and what it leaves alone: by the key's name and by the text's form."""

from __future__ import annotations

import copy
import uuid
from collections import OrderedDict
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_label import mask
from receipt_label.masking import MAX_DEPTH, MAX_TEXT, MAX_VALUES

# Dummies in the vendors' forms; put together here so that no scanner takes them for real ones.
LETTERS = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"
CREDENTIALS = [
    "sk-" + LETTERS,
    "sk-proj-" + LETTERS + "_" + LETTERS,
    "sk-svcacct-" + LETTERS,
    "sk-ant-api03-" + LETTERS,
    "sk-or-v1-" + "0123456789abcdef" * 4,
    "sk-test-123456",
    "AIza" + LETTERS[:35],
    "ya29." + LETTERS,
    "GOCSPX-" + LETTERS[:28],
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "1234567890ABCDEF",
    "ghp_" + LETTERS[:36],
    "gho_" + LETTERS[:36],
    "github_pat_" + LETTERS + "_" + LETTERS,
    "glpat-" + LETTERS[:20],
    "xoxb-" + "123456789012-1234567890123-" + LETTERS[:24],
    "xapp-" + "1-A012-1234567890-" + LETTERS,
    "sk_live_" + LETTERS[:24],
    "rk_test_" + LETTERS[:24],
    "whsec_" + LETTERS[:32],
    "hf_" + LETTERS[:34],
    "gsk_" + LETTERS,
    "xai-" + LETTERS,
    "pplx-" + LETTERS,
    "pcsk_" + LETTERS,
    "npm_" + LETTERS[:36],
    "dapi" + "0123456789abcdef" * 2,
    "SG." + LETTERS[:22] + "." + LETTERS,
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + LETTERS,
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOY\n-----END PGP PRIVATE KEY BLOCK-----",
    *(
        start + LETTERS
        for start in (
            "nvapi- csk- jina_ vck_ ABSK bedrock-api-key- hvs. dckr_pat_ dop_v1_ glcbt-64_ gldt- "
            "tskey-auth- lin_api_ ntn_ shpat_ figd_ glsa_ phx_ sbp_ sb_secret_ sntrys_ 1//0"
        ).split()
    ),
    "pa-" + LETTERS + "-_x",
    "sk_" + "0123456789abcdef" * 3,
    "fc-" + "0123456789abcdef" * 2,
    "glsa_" + LETTERS[:32] + "_0123abcd",
    "NRAK-" + LETTERS[:27].upper(),
    "AGE-SECRET-KEY-1" + LETTERS.upper(),
    "123456789:AA" + LETTERS[:33],
    "discord.com/api/webhooks/123456789012345678/" + LETTERS,
    "sk-" + LETTERS[:9] + "-" + LETTERS[10:22],
]


@pytest.mark.parametrize("key", CREDENTIALS, ids=lambda key: key[:12])
@pytest.mark.parametrize("text", ["{}", "refused: {}.", '{{"k":"{}"}}', "a={},b", "?key={}&x=1"])
def test_keys_of_known_vendors_are_replaced_wherever_they_stand(key: str, text: str) -> None:
    """A key in a sentence, in JSON or in an address is gone, and nothing of it is left."""
    masked = mask(text.format(key))
    assert key[8:] not in masked
    assert "[secret]" in masked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [secret]"),
        ("with bearer 0123456789abcdef", "with bearer [secret]"),
        ("Authorization: Basic dXNlcjpwYXNzMQ==", "Authorization: Basic [secret]"),
        ("postgres://me:hunter2@db/x", "postgres://[secret]@db/x"),
        ("password=hunter2 retry=1", "password=[secret] retry=1"),
        ('{"password": "two words", "n": 1}', '{"password": "[secret]", "n": 1}'),
        ("{'client_secret': 'abc'}", "{'client_secret': '[secret]'}"),
        ('{\\"api_key\\": \\"abc\\"}', '{\\"api_key\\": \\"[secret]\\"}'),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7", "AWS_SECRET_ACCESS_KEY=[secret]"),
        ("https://x/?access_token=abc12345678&p=2", "https://x/?access_token=[secret]&p=2"),
        ("Cookie: a=1; session=2", "Cookie: [secret]"),
        ("Incorrect API key provided: sk-abc****wxyz.", "Incorrect API key provided: [secret]"),
        ("ask ann.lee+x@mail.example.co.uk!", "ask [email]!"),
        ("<josé@exämple.de>", "<[email]>"),
        ("paid with 4111 1111 1111 1111 today", "paid with [card] today"),
        ("card:5555555555554444", "card:[card]"),
        ("3782-822463-10005", "[card]"),
        ("30569309025904", "[card]"),
        ("6011 1111 1111 1117", "[card]"),
        ("+1 (555) 123-4567", "[phone]"),
        ("call +4930901820, please", "call [phone], please"),
        ("+44 (0)20 7946 0958", "[phone]"),
        ("(212) 555-0100", "[phone]"),
        ("555-123-4567", "[phone]"),
        (
            "GET https://x/v1?key=0123456789abcdef0123 failed",
            "GET https://x/v1?key=[secret] failed",
        ),
        ("https://x/?q=1&appid=0123456789abcdef&y=2", "https://x/?q=1&appid=[secret]&y=2"),
        ("https://x/?code=4/0AX4XfWh-abcdefghijk", "https://x/?code=[secret]"),
        ("sent Basic dXNlcjpwYXNzd29yZA== twice", "sent Basic [secret] twice"),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=[secret] psql"),
        ("mysqldump --password hunter2 db", "mysqldump --password [secret] db"),
        ("x --api-key 'two words' y", "x --api-key '[secret]' y"),
    ],
)
def test_what_is_sensitive_is_replaced_and_the_rest_of_the_text_stays(
    text: str, expected: str
) -> None:
    """Headers, addresses, assignments, mail, cards and telephones, in the forms they come in."""
    assert mask(text).rstrip(".") == expected.rstrip(".")


SURVIVORS = [
    "receipt-000123456789",
    "order 112-1234567-1234567",
    "INV-2026-11-28-000045",
    "4111111111111112",  # no check digit
    "4006381333931",  # an article number
    "1764300000",
    "1764300000123",
    "1764300000123456",
    "1764300000123456789",
    "20261128062130",
    "2026-11-28T06:21:12.123456+10:00",
    "2026-11-28 06:21:12",
    str(uuid.UUID(int=0x41111111_4111_1111_1111_411111111111)),
    "12345678-4111-1111-1111-111111111111",
    "d41d8cd98f00b204e9800998ecf8427e",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "chatcmpl-9yZ0123456789abcdefghijklm",
    "msg_01ABCDEFGHIJKLMNOPQRSTUV",
    "s3://bucket/receipts/2026/11/0001.png",
    "0.4539148803436467",
    "192.168.100.1234",
    "12 640 480 1024 768",
    "gpt-4o-2024-08-06",
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "claude-3-5-sonnet@20240620",
    "git@github.com:org/repo.git",
    "risk-assessment-of-something",
    "sk-learn-classifiers-of-text",
    "max_tokens=512 input_tokens: 1024",
    "total_tokens: 99999999",
    "the bearer authentication scheme",
    "python@3.11",
    "a basic understanding of receipts",
    "Basic authentication is refused",
    "https://x/?code=200&key=receipt",
    "the option --password is required",
    "RateLimitError",
]


@pytest.mark.parametrize("text", SURVIVORS)
def test_ids_times_and_hashes_survive(text: str) -> None:
    """What a pipeline needs to find its calls again is not taken for a number of somebody's."""
    assert mask(text) is text


def test_numbers_survive_unless_they_are_cards() -> None:
    """Counts, times in nanoseconds and money stay numbers."""
    values = [0, -1, 512, 1764300000123456789, 10**40, 1.5, True, None, Decimal("0.1")]
    assert mask(values) == values
    assert mask(4111111111111111) == "[card]"


SECRET_KEYS = (
    "api_key apiKey API-KEY x-api-key X-Goog-Api-Key OPENAI_API_KEY apikeys password Password "
    "db_password userPassword passwd passphrase secret client_secret AWS_SECRET_ACCESS_KEY token "
    "access_token refreshToken X-Auth-Token GITHUB_TOKEN access_tokens authorization "
    "Proxy-Authorization cookie set-cookie credentials private_key ssh-key card_number cvv ssn"
    " auth OPENAI_KEY azure_openai_key GOOGLE_MAPS_KEY"
).split()
PLAIN_KEYS = (
    "input_tokens output_tokens cached_input_tokens max_tokens total_tokens tokens token_count "
    "time_to_first_token tokens_per_second eos_token token_type tokenizer primary_key "
    "partition_key idempotency_key key keys cookie_count password_length author authority "
    "prompt_version prompt_id secretary passage public_keyring keyboard"
).split()


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_secret_is_known_by_the_name_of_its_key(key: str) -> None:
    """Whatever the case, the separators and the kind of the value."""
    assert mask({key: "x"}) == {key: "[secret]"}
    assert mask({"a": [{key: {"deep": ["y"]}}]}) == {"a": [{key: "[secret]"}]}
    assert mask({key: None}) == {key: None}


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_figures_and_plain_names_are_no_secrets(key: str) -> None:
    """Our own figures above all: input_tokens is a count, not a token."""
    assert mask({key: 512}) == {key: 512}
    assert mask({key: "plain"}) == {key: "plain"}


def test_a_number_under_a_name_of_tokens_is_a_count_and_under_password_a_secret() -> None:
    """token=17 is the seventeenth token; a PIN of digits is a password."""
    assert mask({"token": 17, "secrets_found": 3}) == {"token": 17, "secrets_found": 3}
    assert mask({"password": 1234, "cvv": 123}) == {"password": "[secret]", "cvv": "[secret]"}


def test_a_national_telephone_number_is_known_by_its_key() -> None:
    """Without a plus sign it is too like an order number to be known by its form."""
    assert mask({"phone": "030 1234567", "order": "030 1234567"}) == {
        "phone": "[phone]",
        "order": "030 1234567",
    }
    assert mask({"mobile": "none", "phone_calls": 3}) == {"mobile": "none", "phone_calls": 3}


def test_a_header_is_known_as_a_pair_and_as_a_name_with_its_value() -> None:
    """HTTP libraries give headers as pairs, recordings of requests as dicts; a list of names
    stays."""
    pairs = [
        ["Authorization", "abc12345"],
        ("x-api-key", "zzz12345"),
        (b"authorization", b"Bearer a"),
    ]
    assert mask(pairs) == [
        ["Authorization", "[secret]"],
        ("x-api-key", "[secret]"),
        ("authorization", "[secret]"),
    ]
    assert mask({"name": "authorization", "value": "abcdef123"})["value"] == "[secret]"
    for plain in (["password", "email"], {"name": "colour", "value": "red"}, ["order", "no 12"]):
        assert mask(plain) == plain


def test_a_secret_used_as_a_key_goes_too() -> None:
    """Counters by key or by address are kept apart, without naming them."""
    one, two = "sk-" + LETTERS, "sk-" + LETTERS[::-1]
    assert list(mask({one: 1, two: 2, "a@b.co": 3}).values()) == [1, 2, 3]
    assert mask({one: 1}) == {"[secret]": 1}


def test_keys_of_ones_own() -> None:
    """In any case and with any separator."""
    value = {"Customer-Name": "Ann", "x": {"customerName": "Bo"}, "customer": "C"}
    assert mask(value, keys=["customer_name"]) == {
        "Customer-Name": "[secret]",
        "x": {"customerName": "[secret]"},
        "customer": "C",
    }


def test_prompts_and_replies_go_where_asked() -> None:
    """Text and structures under their usual names; numbers under them stay."""
    value = {"messages": [{"role": "user"}], "prompt": "p", "content": 3, "prompt_id": "v3"}
    assert mask(value) == value
    assert mask(value, keep_content=False) == {
        "messages": "[content]",
        "prompt": "[content]",
        "content": 3,
        "prompt_id": "v3",
    }


class Colour(StrEnum):
    RED = "red"


def test_every_kind_of_container_is_looked_through() -> None:
    """Dicts and their like, lists, tuples, sets, bytes; what is no plain data is left alone."""
    key = "sk-" + LETTERS
    odd = object()
    assert mask((key, [key], {key})) == ("[secret]", ["[secret]"], {"[secret]"})
    assert mask(frozenset({key, 1})) == frozenset({"[secret]", 1})
    assert mask(MappingProxyType({"a": key})) == {"a": "[secret]"}
    assert mask(OrderedDict(password=1, a=[1])) == {"password": "[secret]", "a": [1]}
    assert mask(key.encode()) == "[secret]"
    assert mask(bytearray(b"plain text")) == "plain text"
    assert mask(b"\xff\xfe\x00") == "[3 bytes]"
    assert mask({"a": odd, 5: Colour.RED, None: 1}) == {"a": odd, 5: "red", None: 1}


def test_the_callers_objects_are_never_changed() -> None:
    """A mask copies; what it was given is as before."""
    value = {"password": "x", "deep": [{"token": "y"}, ("a@b.co",)]}
    before = copy.deepcopy(value)
    masked = mask(value)
    assert value == before
    masked["deep"].append(1)
    assert value == before


def test_cycles_depth_breadth_and_length_are_bounded() -> None:
    """What goes round, is too deep, too many or too long is replaced by a word that says so."""
    cycle: dict[str, Any] = {"a": 1}
    cycle["self"] = [cycle]
    assert mask(cycle) == {"a": 1, "self": ["[cycle]"]}
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    assert str(mask(deep)).count("[") == MAX_DEPTH + 1
    broad = mask([["a@b.co"] * 100_000] * 3)
    assert sum(len(inner) for inner in broad if isinstance(inner, list)) <= MAX_VALUES
    assert broad[-1] == "[cut]"
    doubling: Any = ["x"]
    for _ in range(60):
        doubling = [doubling, doubling]
    assert mask(doubling)
    long = mask("word " * 100_000)
    assert long.endswith("... [500000 characters]")
    assert len(long) < MAX_TEXT + 40
    texts = mask(["word " * 6000] * 20)
    assert sum(map(len, texts)) < 300_000
    assert texts[-1] == "[30000 characters]"


def test_a_key_that_straddles_the_cut_does_not_survive_in_part() -> None:
    """What is cut is masked first."""
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    for before in range(MAX_TEXT - len(key), MAX_TEXT + 1):
        assert "IOSFO" not in mask("." * before + key + "." * 2000)


# For each: a piece that a careless pattern would enter again and again.
ADVERSARIAL = [
    "a", "a.", "a@", "@a.", "a@a.", "1", "1-", "1 ", "+1", "+1 ", "(555) ", "4111 ", "4111-",
    "sk-", "sk-a", "eyJ", "eyJ-", "eyJa.", "eyJaaaaaaa.aaaa.", "-----BEGIN PRIVATE KEY-----",
    "Bearer ", "bearer a", "://", "://a:", "://a:b", "://a:b@", "password", "password=", "key: ",
    'api key: "', "api_key='", "token=1", "cookie: ", "authorization: basic ", "secret", "x=",
    "ghp_", "xoxb-a-", "SG.a", "AKIA", "555-123-", "é@é.", "\\", '"', " ",
    "Basic ", "Basic abcdefgh", "?key=", "&code=1", "?key=1&", "PASSWORD=", "aPASSWORD=a",
    "--password ", "--password a", "--",
]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_no_text_makes_a_pattern_run_away(piece: str) -> None:
    """A text of the full length is looked through in linear time: quadratic would take minutes."""
    text = piece * (MAX_TEXT // len(piece))
    for end in ("", "@", "!", "\n", "=1"):
        mask(text[: MAX_TEXT - len(end)] + end)


TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*ADVERSARIAL, *CREDENTIALS, *SURVIVORS]), max_size=5).map(" ".join),
)
KEYS = st.text(max_size=6) | st.sampled_from([*SECRET_KEYS, *PLAIN_KEYS, *CREDENTIALS])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_masking_twice_is_masking_once(value: Any) -> None:
    """A replacement is never replaced again, nor does one uncover something."""
    before = copy.deepcopy(value)
    once = mask(value)
    assert mask(once) == once
    assert value == before


@given(
    st.uuids(),
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001
    st.binary(min_size=16, max_size=32),
)
def test_uuids_times_and_digests_are_never_masked(
    one: uuid.UUID, moment: Any, digest: bytes
) -> None:
    """Whatever their digits happen to be."""
    for text in (str(one), moment.isoformat(), moment.strftime("%Y%m%d%H%M%S"), digest.hex()):
        assert mask(text) == text
