"""Masking: secrets and personal data go before anything is written.

One place masks everything that a tracker records: :meth:`RecordMask.apply`, just before the metric
is made. What is sensitive is said in ``sensitive.py``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from receipt_label.sensitive import (
    CONTENT,
    SECRET,
    Kind,
    is_card,
    kind_of_key,
    mask_credentials,
    mask_text,
)

__all__ = ["MASK_FAILED", "RecordMask", "mask"]

MASK_FAILED: Final = "failed"
"""``metadata["masked"]`` and ``error`` of a record whose mask failed."""

MAX_DEPTH: Final = 28
MAX_TEXT: Final = 32_768
MAX_CHARACTERS: Final = 262_144
MAX_VALUES: Final = 20_000
_CUT: Final = "[cut]"
_OVERLAP: Final = 1024  # a key that begins before the cut is seen whole
_CACHED: Final = 4096
_SHORT: Final = 128
_FEW: Final = 32
_MANY: Final = 64
_LONGEST_ID: Final = 4096  # a metric refuses what is longer than 512
_PAIR: Final = 2
_NO_NAME: Final = re.compile(r"[\d ]")
_SHORTEST: Final = 6  # a@b.co
_SMALL: Final = 10**13  # a card has 14 digits or more
_NO_KIND: Final = object()
_NO_KEYS: Final[frozenset[str]] = frozenset()
_NAMES: Final = (
    "service",
    "model",
    "operation",
    "tool",
)  # a context has the name of a tool as it is

# Only what is clean is remembered, so no secret stays in memory. Emptied when full: no lock needed.
_clean: dict[str, None] = {}
_kinds: dict[str, Kind | None] = {}
_plain_keys: dict[str, None] = {}
_clean_ids: dict[str, None] = {}


def mask(value: Any, *, keys: Iterable[str] = (), keep_content: bool = True) -> Any:
    """Return a copy of ``value`` without secrets and personal data. Thread-safe.

    A value is replaced by ``[secret]`` where its key says so (``api_key``, ``authorization``,
    ``password``, ``access_token``, ... in any case and with any separator; ``keys`` are further
    names). In texts, keys and tokens of known vendors, credentials in addresses and assignments
    become ``[secret]``, e-mail addresses ``[email]``, card numbers ``[card]``, telephone numbers
    ``[phone]``. ``keep_content=False`` also replaces what stands under the names that prompts
    and replies have (``messages``, ``prompt``, ``content``, ...) by ``[content]``.

    Dicts, lists, tuples and sets of texts are copied and looked through to a depth of 28; bytes
    become text; a cycle, what is nested deeper, and what is beyond 20,000 values or 262,144
    characters is replaced by a word for it, and a text is cut after 32,768 characters: the time is
    bounded. Numbers and objects of other kinds are returned as they are.
    """
    own = frozenset("".join(filter(str.isalnum, name)).lower() for name in keys)
    return _Copy(own, keep_content=keep_content).of(value)


class _Copy:
    """One masked copy; counts what it has looked at."""

    __slots__ = ("_characters", "_inside", "_keep_content", "_keys", "_values")

    def __init__(self, keys: frozenset[str], *, keep_content: bool) -> None:
        self._keys = keys
        self._keep_content = keep_content
        self._inside: set[int] = set()
        self._values = MAX_VALUES
        self._characters = MAX_CHARACTERS

    def of(self, value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
        """Return the masked copy of one value."""
        self._values -= 1
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            return _number(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(value[: MAX_TEXT + _OVERLAP]), len(value))
        if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
            return value
        if self._values <= 0:
            return _CUT
        if id(value) in self._inside:
            return "[cycle]"
        if len(self._inside) >= MAX_DEPTH:
            return "[nested too deeply]"
        self._inside.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value)
            if isinstance(value, (set, frozenset)):
                return self._set(value)
            items = self._header(value) or self._items(value)
        finally:
            self._inside.discard(id(value))
        return tuple(items) if isinstance(value, tuple) else items

    def _items(self, value: Iterable[Any]) -> list[Any]:
        copy: list[Any] = []
        for item in value:
            if self._values <= 0:
                copy.append(_CUT)
                break
            copy.append(self.of(item))
        return copy

    def _set(self, value: Iterable[Any]) -> set[Any]:
        copy: set[Any] = set()
        for item in value:
            if self._values <= 0:
                copy.add(_CUT)
                break
            if isinstance(item, (str, int)):
                copy.add(self.of(item))
            else:
                self._values -= 1
                copy.add(item)
        return copy

    def _header(self, pair: Any) -> list[Any] | None:
        """Return a masked ``("authorization", "...")``, None for what is no such pair."""
        if len(pair) != _PAIR or not isinstance(pair[0], (str, bytes)):
            return None
        name = pair[0] if isinstance(pair[0], str) else pair[0][:_SHORT].decode("latin-1")
        text = pair[1].decode("latin-1") if isinstance(pair[1], bytes) else pair[1]
        # Two names in a list are no pair: ["password", "email"].
        if not isinstance(text, str) or (len(text) <= _FEW and not _NO_NAME.search(text)):
            return None
        if self._kind(name) not in ("secret", "token"):
            return None
        return [self.of(pair[0]), self._replaced("secret", pair[1])]

    def _mapping(self, value: Mapping[Any, Any]) -> dict[Any, Any]:
        copy: dict[Any, Any] = {}
        named = self._kind(value.get("name")) if "value" in value else None
        for key, inner in value.items():
            if self._values <= 0 or self._characters <= 0:
                copy[_CUT] = True
                break
            kind = self._kind(key)
            if key == "value" and named in ("secret", "token"):
                kind = named
            name = self._text(key) if isinstance(key, str) else key
            if name != key and name in copy:
                name = f"{name} {len(copy)}"
            copy[name] = self.of(inner) if kind is None else self._replaced(kind, inner)
        return copy

    def _kind(self, key: Any) -> Kind | None:
        if not isinstance(key, str):
            return None
        if self._keys and "".join(filter(str.isalnum, key[:_SHORT])).lower() in self._keys:
            return "secret"
        kind = _kind(key)
        return None if kind == "content" and self._keep_content else kind

    def _replaced(self, kind: Kind, value: Any) -> Any:
        self._values -= 1
        if value is None or isinstance(value, bool) or value in ("", SECRET, CONTENT):
            return value
        number = isinstance(value, (int, float))
        if kind == "content":
            return value if number else CONTENT
        if kind == "phone":
            text = str(value) if number else value
            digits = isinstance(text, str) and sum(map(str.isdigit, text[:_SHORT])) > _SHORTEST
            return "[phone]" if digits else self.of(value)
        return value if number and kind == "token" else SECRET

    def _text(self, text: str) -> str:
        text = _plain(text)
        size = len(text)
        if size < _SHORTEST:
            return text
        if self._characters <= 0:
            return f"[{size} characters]"
        if size <= _SHORT:
            self._characters -= size
            return _short(text)
        limit = min(MAX_TEXT, self._characters)
        self._characters -= min(size, limit)
        if size <= limit:
            return mask_text(text)
        return f"{mask_text(text[: limit + _OVERLAP])[:limit]}... [{size} characters]"

    def _bytes(self, data: bytes, size: int) -> str:
        try:
            return self._text(data.decode())
        except UnicodeDecodeError:
            return f"[{size} bytes]"


def _plain(text: str) -> str:
    """Return a text, or the member of an enum that is one, as the text that it stands for."""
    return text if type(text) is str else str.__str__(text)


def _short(text: str) -> str:
    if text in _clean or len(text) < _SHORTEST:
        return text
    masked = mask_text(text)
    if masked is text:
        if len(_clean) >= _CACHED:
            _clean.clear()
        _clean[text] = None
    return masked


def _kind(name: str) -> Kind | None:
    kind = _kinds.get(name, _NO_KIND)
    if kind is _NO_KIND:
        kind = kind_of_key(name[:_SHORT])
        if len(name) <= _SHORT:
            if len(_kinds) >= _CACHED:
                _kinds.clear()
            _kinds[name] = kind
    return kind  # type: ignore[return-value]  # the sentinel is gone


def _is_plain_key(name: str) -> bool:
    """Whether a key is clean itself and says nothing of its value."""
    if _kind(name) is not None or len(name) > _SHORT or _short(name) is not name:
        return False
    if len(_plain_keys) >= _CACHED:
        _plain_keys.clear()
    _plain_keys[name] = None
    return True


def _number(value: int) -> Any:
    return "[card]" if value >= _SMALL and value < 10**19 and is_card(str(int(value))) else value


def _clean_values(metadata: Any, left: int) -> int:  # noqa: PLR0911 - one for each kind of value
    """Return how many of ``left`` values remain after these, which are plain and have nothing to
    mask: the common case, cheap. -1 where they are not, or too many."""
    if (
        type(metadata) is not dict
        or ("value" in metadata and "name" in metadata)  # a header: the name tells of the value
        or (left := left - len(metadata)) < 0
    ):
        return -1
    for key, value in metadata.items():
        if type(key) is not str or not (key in _plain_keys or _is_plain_key(key)):
            return -1
        kind = type(value)
        if kind is str:
            if not (value in _clean or len(value) < _SHORTEST) and (
                len(value) > _SHORT or _short(value) is not value
            ):
                return -1
        elif kind is int:
            if value >= _SMALL:
                return -1
        elif kind is dict:
            left = _clean_values(value, left)
            if left < 0:
                return -1
        elif not (value is None or kind is bool or kind is float):
            return -1
    return left


class RecordMask:
    """What a tracker does to the fields of a record before it makes a metric of them. Thread-safe.

    ``rule`` True or None: the rules of :func:`mask`. A callable: those, and then the callable, with
    the metadata (a dict of its own, which it may change) and with the error (a text); it returns
    what is recorded instead, None for nothing (an error becomes ``[content]``: the call still
    counts as one that failed). False: nothing is masked.

    A rule that fails costs the content, never the figures: metadata becomes
    ``{"masked": "failed"}`` and the error ``failed``; ``on_failure`` is told the kind of exception
    (not its text, which may hold the content). Raises TypeError here for a rule that is none.
    """

    __slots__ = ("_active", "_custom", "_on_failure", "_record_content", "_within", "is_constant")

    def __init__(
        self,
        rule: Callable[[Any], Any] | bool | None,
        *,
        record_content: bool,
        on_failure: Callable[[str], None],
    ) -> None:
        if not (rule is None or isinstance(rule, bool) or callable(rule)):
            raise TypeError(f"mask={rule!r} is no mask: pass a callable, or False to mask nothing")
        self._active = rule is not False
        self._custom = None if isinstance(rule, bool) else rule
        self.is_constant = self._custom is None  # to equal fields it does the same, every time
        self._record_content = record_content
        self._on_failure = on_failure
        self._within = threading.local()

    def apply(self, fields: dict[str, Any]) -> None:
        """Mask names, ``metadata`` and ``error`` of these fields, in place. Raises nothing.

        Of names (service, model, operation) only credentials go, as of ids.
        """
        if not self._active:
            return
        for name in _NAMES:
            text = fields.get(name)
            if isinstance(text, str) and text not in _clean_ids:
                fields[name] = self.id(_plain(text))[: len(text)]  # a name has an upper length
        metadata = fields.get("metadata")
        if metadata:
            fields["metadata"] = self._metadata(metadata)
        error = fields.get("error")
        if error is not None and not (
            self._custom is None and type(error) is str and error in _clean
        ):
            fields["error"] = self._error(error)

    def id(self, text: Any) -> Any:
        """Return an id without credentials. Addresses and numbers stay: ids are there to tell
        users and orders apart. The same object where there are none."""
        if not self._active or not isinstance(text, str) or text in _clean_ids:
            return text
        plain = _plain(text)
        if len(plain) > _LONGEST_ID:  # a metric refuses it, whatever it is
            plain = plain[:_LONGEST_ID]
        masked = mask_credentials(plain)
        if masked is not plain:
            return masked
        if len(plain) <= _SHORT:
            if len(_clean_ids) >= _CACHED:
                _clean_ids.clear()
            _clean_ids[plain] = None
        return text

    def message(self, text: str) -> str:
        """Return a message for the log, which quotes values that were refused."""
        return mask_text(text) if self._active else text

    def _call(self, custom: Callable[[Any], Any], value: Any) -> Any:
        """Call the caller's rule. Raises RecursionError within itself: a rule may record."""
        if getattr(self._within, "custom", False):
            raise RecursionError
        self._within.custom = True
        try:
            return custom(value)
        finally:
            self._within.custom = False

    def _metadata(self, metadata: Any) -> Any:
        try:
            if self._custom is None and _clean_values(metadata, _MANY) >= 0:
                return metadata
            if not isinstance(metadata, Mapping):
                return metadata  # refused by the metric, by name
            masked = _Copy(_NO_KEYS, keep_content=self._record_content).of(metadata)
            if self._custom is not None:
                masked = self._call(self._custom, masked)
                if not (masked is None or isinstance(masked, Mapping)):
                    raise TypeError(f"it returned {type(masked).__name__}, no dict")
        except Exception as error:
            self._on_failure(type(error).__name__)
            return {"masked": MASK_FAILED}
        return masked

    def _error(self, error: Any) -> Any:
        try:
            text = _plain(error) if isinstance(error, str) else str(error)
            masked = _Copy(_NO_KEYS, keep_content=True).of(text)
            if self._custom is not None:
                masked = self._call(self._custom, masked)
                if masked is None:
                    return CONTENT  # what failed stays a failure
                if not isinstance(masked, str):
                    raise TypeError(f"it returned {type(masked).__name__}, no text")
        except Exception as failure:
            self._on_failure(type(failure).__name__)
            return MASK_FAILED
        return masked
