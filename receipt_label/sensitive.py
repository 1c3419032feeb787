"""What is sensitive: by the name of a key, and by the form of a text.

Credentials in texts are those of ``credentials.py``, whose rules of patterns hold here too. Card
numbers: lengths and first digits of ISO/IEC 7812, check digit by Luhn (not the 13 digits that Visa
gave up: article numbers have 13). Telephone numbers: ITU-T
E.164 with a plus sign, and the North American plan in its usual notation; others are too like
order numbers, and are known by their key alone.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal

from receipt_label.credentials import SECRET, mask_credentials
from receipt_label.named_secrets import PASSWORDS, PASSWORDS_WITHIN

__all__ = ["CONTENT", "SECRET", "Kind", "kind_of_key", "mask_credentials", "mask_text"]

CONTENT: Final = "[content]"
_EMAIL: Final = "[email]"
_CARD: Final = "[card]"
_PHONE: Final = "[phone]"

Kind = Literal["secret", "token", "phone", "content"]
"""Of a key: ``token`` is a secret unless a number (a count), ``phone`` where it holds digits."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_FOREIGN_WORDS: Final = re.compile(r"[^\W_]+")
_SECRETS: Final = PASSWORDS | frozenset(
    "secret password passwd passphrase passcode pwd credential authorization cookie "
    "bearer apikey privatekey secretkey accesskey cvv cvc ssn iban jwt csrf xsrf".split()
)
_REPLACED: Final = re.compile(r"\[(?:secret|content|email|card|phone)\]")
_WRITTEN_TOGETHER: Final = (
    *("cardnumber", "creditcard", "socialsecurity"),
    *(*PASSWORDS_WITHIN, "katasandi", "mậtkhẩu", "كلمةالمرور", "كلمةالسر"),
)
_KEYS: Final = frozenset(
    "api access secret private auth encryption signing subscription account master shared storage "
    "ssh pgp gpg license service function host openai anthropic azure gemini mistral groq cohere "
    "maps".split()
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
    words = _words(_REPLACED.sub("", name))
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


def _words(name: str) -> list[str]:
    if name.isascii():
        return [word.lower() for word in _WORDS.findall(name)]
    return _FOREIGN_WORDS.findall(unicodedata.normalize("NFC", name).casefold())


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
