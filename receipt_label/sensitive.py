"""What is sensitive: by the name of a key, and by the form of a text.

The patterns are linear in the length of the text: every repetition is bounded or possessive, and a
run of characters is only ever entered at its beginning. Every branch begins with a literal where
it can, for then ``re`` skips ahead to it: a clean text of 20 characters takes about 1 us.

Forms of keys: the vendors' own documentation, and the rules of GitHub's secret scanning. Card
numbers: lengths and first digits of ISO/IEC 7812, check digit by Luhn (not the 13 digits that Visa
gave up: article numbers have 13). Telephone numbers: ITU-T
E.164 with a plus sign, and the North American plan in its usual notation; others are too like
order numbers, and are known by their key alone.
"""

from __future__ import annotations

import binascii
import re
from typing import Final, Literal

__all__ = ["CONTENT", "SECRET", "Kind", "kind_of_key", "mask_credentials", "mask_text"]

SECRET: Final = "[secret]"  # noqa: S105 - what stands for one
CONTENT: Final = "[content]"
_EMAIL: Final = "[email]"
_CARD: Final = "[card]"
_PHONE: Final = "[phone]"

Kind = Literal["secret", "token", "phone", "content"]
"""Of a key: ``token`` is a secret unless a number (a count), ``phone`` where it holds digits."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRETS: Final = frozenset(
    "secret password passwd passphrase passcode passwort pwd credential authorization cookie "
    "bearer apikey privatekey secretkey accesskey cvv cvc ssn iban jwt csrf xsrf".split()
)
_REPLACED: Final = re.compile(r"\[(?:secret|content|email|card|phone)\]")
_WRITTEN_TOGETHER: Final = ("cardnumber", "creditcard", "socialsecurity")
_KEYS: Final = frozenset(
    "api access secret private auth encryption signing subscription account master shared storage "
    "ssh pgp gpg license service function host".split()
)
_TOKENS: Final = frozenset(
    "authtoken accesstoken refreshtoken sessiontoken idtoken apitoken bearertoken csrftoken "
    "xsrftoken securitytoken".split()
)
_TOKENS_OF: Final = frozenset("access refresh auth bearer api session security csrf id".split())
# A tokenizer's marks and the places of tokens in a text: no credentials.
_MARKS: Final = frozenset(
    "eos bos pad stop unk sep cls mask start end first last next special per".split()
)
# What tells about a secret without being it.
_ABOUT: Final = frozenset(
    "count counts length len type name names present valid expires expiry expiration ttl version "
    "status policy attempts used enabled required limit arn reset usage".split()
)
_PHONES: Final = frozenset("phone mobile telephone cellphone fax msisdn whatsapp".split())
_CONTENT: Final = frozenset(
    "messages prompt prompts completion completions content contents systemprompt "
    "systeminstruction systeminstructions instructions choices candidates inputtext outputtext "
    "inputmessages outputmessages requestbody responsebody responsetext replytext "
    "userprompt".split()
)


def kind_of_key(name: str) -> Kind | None:
    """Return what a key's name says of its value, whatever its case and separators, or None."""
    words = [word.lower() for word in _WORDS.findall(_REPLACED.sub("", name))]
    if not words or SECRET in name:
        return None
    if "".join(words) in _CONTENT:
        return "content"
    if words[-1] in _ABOUT:
        return None
    kind = _kind_of_secret(words)
    if kind is None and not _PHONES.isdisjoint(words):
        return "phone"
    return kind


def _kind_of_secret(words: list[str]) -> Kind | None:
    joined, last = "".join(words), words[-1]
    single = [word[:-1] if word.endswith("s") else word for word in words]
    if any(name in joined for name in _WRITTEN_TOGETHER):
        return "secret"
    if not _SECRETS.isdisjoint(words) or not _SECRETS.isdisjoint(single):
        return "secret" if last in _SECRETS or last == "key" else "token"
    if any(
        word in _KEYS and after == "key" for word, after in zip(words, single[1:], strict=False)
    ):
        return "secret" if last == "key" else "token"
    if last == "auth" or joined in _TOKENS:
        return "token"
    before = words[-2] if len(words) > 1 else ""
    if last == "token":
        return None if before in _MARKS else "token"
    return "token" if last == "tokens" and before in _TOKENS_OF else None


def _key(literal: str, rest: str, width: int = 0) -> str:
    """Return a pattern for a key with this beginning, which no letter or digit precedes."""
    before = "." * width if width else re.sub(r"\[[^]]*\]", ".", literal)
    return f"{literal}(?<![A-Za-z0-9]{before}){rest}"


_LONG: Final = "[A-Za-z0-9]{20,}+"
_PEM: Final = "[A-Z ]{0,40}PRIVATE KEY"
_CREDENTIAL: Final = re.compile(
    "|".join(
        (
            # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse; errors quote them with stars.
            _key("sk-", r"(?:proj|svcacct|admin|ant|or|lf|test|live)-[\w*-]{6,}+"),
            _key("sk-", r"(?=[\w*-]{0,40}[\d*])[\w*-]{16,}+"),
            _key("AIza", r"[\w-]{24,}+"),  # Google
            _key("AQ\\.", r"A[\w-]{20,}+", 3),
            _key("ya29\\.", r"[\w-]{16,}+", 5),
            _key("GOCSPX-", r"[\w-]{16,}+"),
            _key("A[KS]IA", r"[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS
            _key("gh[pousr]_", _LONG),  # GitHub
            _key("github_pat_", r"\w{20,}+"),
            _key("glpat-", r"[\w-]{16,}+"),
            _key("xox[a-z]-", r"[\w-]{8,}+"),  # Slack
            _key("xapp-", r"[\w-]{16,}+"),
            r"hooks\.slack\.com/services/[\w/]{8,}+",
            *(_key(f"{kind}k_", r"(?:live|test)_[A-Za-z0-9]{8,}+") for kind in "spr"),  # Stripe
            _key("whsec_", r"[A-Za-z0-9+/=]{16,}+"),
            _key("hf_", _LONG),
            _key("gsk_", _LONG),
            _key("xai-", _LONG),
            _key("pplx-", _LONG),
            _key("fw_", _LONG),
            _key("r8_", _LONG),
            _key("pcsk_", r"\w{20,}+"),
            _key("tgp_v1_", r"[\w-]{20,}+"),
            _key("tvly-", r"[\w-]{16,}+"),
            _key("lsv2_", r"\w{20,}+"),
            _key("npm_", _LONG),
            _key("pypi-", r"[\w-]{32,}+"),
            _key("dapi", r"[0-9a-f]{32}(?![A-Za-z0-9])"),
            _key("SG\\.", r"[\w-]{16,}+\.[\w-]{16,}+", 3),
            # A JSON web token. No hyphen before it either: runs of them must not be entered twice.
            r"eyJ(?<![\w-]eyJ)[\w-]{6,}+\.[\w-]{4,}+(?:\.[\w-]*+)?",
            rf"-----BEGIN {_PEM}-----(?s:.*?)(?:-----END {_PEM}-----|\Z)",
        )
    )
)
_BEARER: Final = re.compile(
    r"([Bb]earer[ \t]{1,4})(?=[\w.~+/=-]{0,200}\d|[\w.~+/=-]{24})[\w.~+/=-]{8,}+"
)
_BASIC: Final = re.compile(r"([Bb]asic[ \t]{1,4})([A-Za-z0-9+/]{8,4096}+={0,2}+)")
_QUERY: Final = re.compile(
    r"([?&](?:key|appid|code)=)(?=[\w.~%/+-]{0,200}\d)[\w.~%/+-]{16,}+", re.IGNORECASE
)
_USER_INFO: Final = re.compile(r"://[^\s/@:?#]{0,128}+:[^\s/@]{1,512}+@")
_NAMED: Final = re.compile(
    "|".join(
        spelled
        for name in "key token secret pass pwd auth cookie credential sig".split()
        for spelled in (name, name.capitalize(), name.upper())
    )
)
_VALUE: Final = (
    r"""(?:\\{1,3}"[^"\\]{1,512}+(?:\\{1,3}")?|"(?:[^"\\]|\\.){1,512}+"?|'(?:[^'\\]|\\.){1,512}+'?"""
    r"""|[^\s"',;&\\<>(){}\[\]][^\s"',;&\\<>]{0,512}+)"""
)
_GAP: Final = r"""(?:[ ]provided)?(?:\\{0,3}["'])?[ \t]{0,4}[:=][ \t]{0,4}+"""
_OPENING: Final = re.compile(r"""\\*["']""")
_ASSIGNED: Final = re.compile(
    rf"""(?<![a-z0-9])
    ((?:(?:api|access|secret|private|auth|account|shared|subscription|encryption|signing|master)
        [_\ -]?key
      | secret(?:[_-]access[_-]key)? | passw(?:or)?d | passphrase | credentials?
      | pwd(?!=/) ){_GAP})
    (?!\\{{0,3}}["']?\[){_VALUE}
    |((?<=[a-z0-9])password=)(?!["']?\[){_VALUE}
    |(?<![a-z0-9])
    (cookie{_GAP}["']?+)(?!\[)[^\r\n"']{{1,4096}}+
    |(?<![a-z0-9])
    (authorization{_GAP}["']?+(?:(?:basic|token|apikey|bearer|negotiate)[ ]{{1,4}})?+)
    (?!\[)[^\s"',;&\\]{{4,4096}}+
    |(?<![a-z0-9])
    ((?:token|sig(?:nature)?|x-amz-(?:signature|credential)){_GAP}["']?+)
    (?!\[)(?=[^\s"',;&]{{0,200}}\d)[^\s"',;&\\]{{8,4096}}+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OPTION: Final = re.compile(
    rf"""(--(?:password|passphrase|api-key)[ ]{{1,4}}+)
    (?!-|["']?\[|(?:is|to|and|or|was|must|cannot|option|flag|requires?)\b){_VALUE}""",
    re.VERBOSE,
)
_MAIL: Final = re.compile(
    r"(?<![\w.+%-])(?!git@)[\w.+%-]++@(?:[\w-]{1,63}\.)++(?<!-\.)[\w-]*+(?<=[^\W\d_]{2})"
)
_CARD_NUMBER: Final = re.compile(
    r"[2-6](?<![\w.].)(?<!\d-.)\d{3}"
    r"(?:\d{10,15}|([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|([ -])\d{6}\2\d{4,5})(?!\w|[.-]\d)"
)
_PHONE_NUMBER: Final = re.compile(
    r"""(?<![\w.+-])
    (?:\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}
      |(?:1[ .-])?\([2-9]\d\d\)[ ]?\d{3}[ .-]\d{4})
    (?!\w|[.-]\d)""",
    re.VERBOSE,
)
_AMERICAN_NUMBER: Final = re.compile(
    r"[2-9](?:(?<![\w.+-].)|(?<=\b1[.-].))\d\d([.-])\d{3}\1\d{4}(?!\w|[.-]\d)"
)
_WORD: Final = re.compile(r"[\w.-]+")
_SHORTEST_NUMBER: Final = 12  # 555-123-4567; whatever is shorter has a mark that no word has
_PHONE_DIGITS: Final = range(8, 16)  # E.164 has up to 15


def mask_text(text: str) -> str:
    """Return the text with credentials, addresses, card and telephone numbers replaced.

    The same object where there are none. Linear in its length. Raises nothing.
    """
    if len(text) < _SHORTEST_NUMBER and _WORD.fullmatch(text) is not None:
        return text
    masked = mask_credentials(text)
    if "@" in masked:
        masked = _MAIL.sub(_EMAIL, masked)
    masked = _CARD_NUMBER.sub(_card, masked)
    if "+" in masked or "(" in masked:
        masked = _PHONE_NUMBER.sub(_phone, masked)
    return _AMERICAN_NUMBER.sub(_PHONE, masked)


def mask_credentials(text: str) -> str:
    """Return the text with keys, tokens and passwords replaced; the same object without any."""
    masked = _CREDENTIAL.sub(SECRET, text)
    if "earer" in masked:
        masked = _BEARER.sub(rf"\1{SECRET}", masked)
    if "asic" in masked:
        masked = _BASIC.sub(_basic, masked)
    if "=" in masked and ("?" in masked or "&" in masked):
        masked = _QUERY.sub(rf"\1{SECRET}", masked)
    if "--" in masked:
        masked = _OPTION.sub(_assigned, masked)
    if "@" in masked and "://" in masked:
        masked = _USER_INFO.sub(f"://{SECRET}@", masked)
    if ("=" in masked or ":" in masked) and _NAMED.search(masked) is not None:
        masked = _ASSIGNED.sub(_assigned, masked)
    return masked if masked != text else text


def _basic(found: re.Match[str]) -> str:
    """Replace what is base64 of ``user:password``; "basic understanding" is none."""
    encoded = found[2].rstrip("=")
    try:
        plain = binascii.a2b_base64(encoded[: len(encoded) // 4 * 4]).decode()
    except ValueError:
        return found[0]
    rest = plain.replace(":", "", 1)
    return f"{found[1]}{SECRET}" if ":" in plain and rest.isprintable() else found[0]


def _assigned(found: re.Match[str]) -> str:
    name = found[found.lastindex or 0]
    value = found[0][len(name) :]
    opening = _OPENING.match(value)
    if opening is None:
        return f"{name}{SECRET}"
    quote = opening[0]
    closed = len(value) > len(quote) and value.endswith(quote)
    return f"{name}{quote}{SECRET}{quote if closed else ''}"


def _card(found: re.Match[str]) -> str:
    number = re.sub(r"\D", "", found[0])
    return _CARD if is_card(number) else found[0]


def is_card(number: str) -> bool:
    """Whether these digits are a card's: a network's beginning and length, and the check digit."""
    size, head = len(number), int(number[:4])
    network = (
        (number[0] == "4" and size in (16, 19))
        or (size == 16 and (5100 <= head <= 5599 or 2221 <= head <= 2720))  # noqa: PLR2004
        or (size == 15 and number[:2] in ("34", "37"))  # noqa: PLR2004
        or (size >= 16 and (head == 6011 or number[:2] in ("62", "65") or 6440 <= head <= 6499))  # noqa: PLR2004
        or (size >= 16 and 3528 <= head <= 3589)  # noqa: PLR2004
        or (size == 14 and (number[:2] in ("36", "38", "39") or 3000 <= head <= 3059))  # noqa: PLR2004
        or (size >= 16 and head in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763))  # noqa: PLR2004
    )
    if not network:
        return False
    doubled = "0246813579"
    total = sum(
        int(doubled[int(digit)]) if place % 2 else int(digit)
        for place, digit in enumerate(reversed(number))
    )
    return total % 10 == 0


def _phone(found: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in found[0])
    return _PHONE if digits in _PHONE_DIGITS else found[0]
