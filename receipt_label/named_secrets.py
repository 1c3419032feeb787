"""Secrets that a text names: what is assigned to a name, and what a command is given as an option.

The rules of ``credentials.py`` hold: linear in the length of the text, every repetition bounded or
possessive.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from functools import cache, partial
from typing import Final

__all__ = ["PASSWORDS", "PASSWORDS_WITHIN", "PLAIN_NAME", "SECRET", "mask_assigned", "mask_options"]

SECRET: Final = "[secret]"  # noqa: S105 - what stands for one

_PLAIN_WORD: Final = r"(?=[b-df-hj-np-tv-z]{0,3}[aeiouy])[a-z]{3,20}+"
_PLAIN_PART: Final = (
    r"(?:(?:[A-Z]?+(?=[b-df-hj-np-tv-z]{0,3}[aeiouy])[a-z]{2,20}+){1,4}+\d{0,3}+"
    r"|[a-z]?+\d{1,8}+[a-z]?+)(?![A-Za-z0-9])"
)
PLAIN_NAME: Final = rf"{_PLAIN_WORD}(?:[-_]{_PLAIN_PART}){{1,9}}+"
"""A name that somebody gave: words, versions and dates between hyphens. What is random has none."""

PASSWORDS_WITHIN: Final = tuple(
    "passwort kennwort wachtwoord lösenord losenord adgangskode salasana contraseña contrasena "
    "motdepasse пароль 密码 密碼 パスワード 비밀번호".split()
)
"""The word for a password in other languages, which may also end a longer word."""

PASSWORDS: Final = frozenset(
    "passord kodeord senha heslo hasło haslo jelszó jelszo şifre sifre mdp katasandi mậtkhẩu "
    "סיסמה كلمةالمرور كلمةالسر".split()
)
"""Those that stand alone: longer words with them mean something else."""

_USERS: Final = (
    *("db", "database", "smtp", "mail", "email", "ftp", "sftp", "ldap", "redis", "mysql"),
    *("postgres", "mongo", "user", "admin", "root", "proxy", "auth"),
)

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
_END: Final = r"""\.?(?:[\s"',;&<>(){}\[\]\\]|\Z)"""
_NOTHING: Final = (
    r"(?:none|null|nil|missing|absent|unset|undefined|empty|required|invalid|expired|unknown)"
)
# What says that there is no secret, or is too short for one.
_NO_SECRET: Final = rf"""(?!\\{{0,3}}["']?(?:{_NOTHING}|\d{{1,2}}){_END})"""
_STATED: Final = rf"""(?!\\{{0,3}}["']?{_NOTHING}{_END})"""
_OPENING: Final = re.compile(r"""\\*["']""")
_ASSIGNED: Final = re.compile(
    rf"""(?<![a-z0-9])
    ((?:(?:api|(?:shared[_\ -]?)?access|secret|private|auth|account|shared
        |subscription|encryption|signing|master)
        [_\ -]?key
      | (?:client)?secret(?:[_-]?access[_-]?key)? | passw(?:or)?d | passphrase | credentials?
      | pwd(?!=/) ){_GAP})
    (?!\\{{0,3}}["']?\[){_STATED}{_VALUE}
    |((?<=[a-z0-9])password(?:=|\\{{0,3}}["'][ \t]{{0,4}}:[ \t]{{0,4}}+))
    (?!\\{{0,3}}["']?\[){_VALUE}
    |(?<![a-z0-9])
    (cookie{_GAP}["']?+)(?!\[)[^\r\n"']{{1,4096}}+
    |(?<![a-z0-9])
    (authorization{_GAP}["']?+(?:(?:basic|token|apikey|bearer|negotiate)[ \t]{{1,4}})?+)
    (?!\[)[^\s"',;&\\]{{4,4096}}+
    |(?<![a-z0-9])
    ((?:(?:(?:access|refresh|session|security|auth|bearer|csrf|xsrf|api|id)[_-]?)?token
      | sig(?:nature)? | x-amz-(?:signature|credential)){_GAP}["']?+)
    (?!\[)(?!(?-i:{_PLAIN_WORD}-{PLAIN_NAME}){_END})
    (?=[^\s"',;&]{{0,200}}\d)[^\s"',;&\\]{{8,4096}}+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OF_USERS: Final = "|".join(
    rf"(?<=(?<![a-z\d]){user}{joint}pass)" for user in _USERS for joint in ("", "[_-]")
)
# PASS and KEY also mean other things: what stands before them and behind them decides.
_PASS: Final = re.compile(
    rf"""(pass(?:(?<!\w.{{4}})(?<!\w-.{{4}})(?:=|\\{{0,3}}["'][ \t]{{0,4}}[:=][ \t]{{0,4}}+)
      |(?<=(?-i:[A-Z\d]_PASS)){_GAP}
      |(?:{_OF_USERS}){_GAP}))
    (?!\\{{0,3}}["']?(?:\[|(?:true|false|yes|no|ok|{_NOTHING}|\d{{1,3}}){_END})){_VALUE}""",
    re.IGNORECASE | re.VERBOSE,
)
_OTHER_KEYS: Final = (
    "PUBLIC PRIMARY FOREIGN PARTITION SORT HASH RANGE CACHE IDEMPOTENCY OBJECT S3 INDEX ROW RECORD "
    "DEDUPE DEDUPLICATION LOOKUP ROUTING GROUP"
).split()
_KEY: Final = re.compile(
    rf"""(_KEY(?<=[A-Z\d]_KEY){"".join(f"(?<!{name}_KEY)" for name in _OTHER_KEYS)}
    {_GAP}(?:\\{{0,3}}["'])?+)(?=[\w.~+/=-]{{0,200}}\d)[\w.~+/=-]{{16,}}+""",
    re.VERBOSE,
)

_NAMES_WITHIN: Final = (*PASSWORDS_WITHIN, r"mot[ _-]de[ _-]passe")
_NAMES_ALONE: Final = (
    *sorted(PASSWORDS),
    r"kata[ _-]sandi",
    r"mật[ _-]khẩu",
    r"كلمة[ _](?:المرور|السر)",
    r"parola(?=\\{0,3}[\"']?=)",  # "parola: ..." is a word of Italian's
)


def _forms(names: Iterable[str]) -> list[str]:
    """Return these names with their accents written together, and written apart."""
    forms = (unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD"))
    return list(dict.fromkeys(forms))


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for any of these words; by their first letters, which ``re`` finds fast."""
    rests: dict[str, list[str]] = {}
    for word in words:
        rests.setdefault(word[0], []).append(word[1:])
    return re.compile("|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in rests.items()))


# What a text has in it before the pattern is tried.
_STEMS: Final = (*PASSWORDS_WITHIN, *PASSWORDS, "passe", "sandi", "khẩu", "parola", "كلمة")
_ASCII_STEM: Final = _any_of(filter(str.isascii, _STEMS))
_FOREIGN_GAP: Final = _GAP.replace("[:=]", "[:=\uff1a]")  # also as Chinese writes a colon


@cache
def _stem() -> re.Pattern[str]:
    return _any_of(_forms(_STEMS))


@cache
def _foreign() -> re.Pattern[str]:
    """Return the pattern; to compile it takes milliseconds, which no start should wait for."""
    within, alone = "|".join(_forms(_NAMES_WITHIN)), "|".join(_forms(_NAMES_ALONE))
    return re.compile(
        rf"((?:{within}|(?<![^\W_])(?:{alone})){_FOREIGN_GAP})(?!\\{{0,3}}[\"']?\[)"
        rf"{_NO_SECRET}{_VALUE}",
        re.IGNORECASE,
    )


_NO_VALUE: Final = (
    r"(?:is|to|and|or|was|were|are|must|cannot|can|may|should|will|has|not|option|flag|argument|"
    r"parameter|requires?|for|with|from|in|on|by|as|if|when|of|the|an?|instead|given)\b"
)
_OPTION: Final = re.compile(
    rf"""(--(?!(?:next|max|min|start|starting|stop|end|eos|bos|pad)-)(?:[a-z]{{1,20}}+-){{0,3}}
      (?:passw(?:or)?d|passphrase|passcode|pwd|api-?key|access-key|secret(?:-access)?(?:-key)?
        |(token))
      (?:[ ]{{1,4}}+|["'],[ ]{{0,4}}+(?=["'])))
    (?!-|["']?\[|{_NO_VALUE})(?(2)(?=\S{{8}})(?=\S{{0,200}}\d|\S{{16}})){_VALUE}""",
    re.VERBOSE,
)
_SHORT_OPTION: Final = re.compile(
    rf"""(-[pau](?<=[\s"']-[pau]))((?:["'],(?=[ ]{{0,4}}["']))?[ ]{{0,4}}+)
    (?!-|["']?\[)({_VALUE})""",
    re.VERBOSE,
)


def _command(name: str) -> str:
    """Return a pattern for a command where one begins, or in a directory of programs."""
    size = len(name)
    return rf"""{name}(?:(?<![^\s"'`(;&|].{{{size}}})|(?<=bin/{name}))"""


_COMMANDS: Final = (
    ("mysql", "mariadb"),
    ("sshpass", "mongo", "docker login", "podman login"),
    ("redis-cli",),
    ("curl",),
)
_COMMAND: Final = re.compile("|".join(f"({'|'.join(map(_command, names))})" for names in _COMMANDS))
_TAKES: Final = {1: ("-p", False), 2: ("-p", True), 3: ("-a", True), 4: ("-u", True)}
"""Place in ``_COMMANDS`` -> the option for a password, and whether it may stand apart from it."""
_BEFORE: Final = 256  # characters: how far behind its command an option is looked for
_COMMANDS_BACK: Final = 3
_NO_PASSWORD: Final = re.compile(r"(?:ort|rint|ath|rotocol)\b|[\d.]+:[\d.:/a-z]+$")
"""After ``-p``: -port, -print, -path, and the ports of a container."""


def mask_options(text: str) -> str:
    """Return the text with the passwords that commands are given as options replaced."""
    masked = _OPTION.sub(_assigned, text) if "--" in text else text
    if "-p" in masked or "-u" in masked or "-a" in masked:
        commands = [(one.start(), one.lastindex or 1) for one in _COMMAND.finditer(masked)]
        if commands:
            masked = _SHORT_OPTION.sub(partial(_given, commands), masked)
    return masked


def mask_assigned(text: str) -> str:
    """Return the text with what is assigned to the name of a secret replaced."""
    if "=" not in text and ":" not in text and "\uff1a" not in text:
        return text
    masked = text
    if _NAMED.search(masked) is not None:
        masked = _ASSIGNED.sub(_assigned, masked)
        if "_KEY" in masked:
            masked = _KEY.sub(_assigned, masked)
        if "pass" in masked or "PASS" in masked or "Pass" in masked:
            masked = _PASS.sub(_assigned, masked)
    lower = masked.lower()
    if (_ASCII_STEM if lower.isascii() else _stem()).search(lower) is not None:
        masked = _foreign().sub(_assigned, masked)
    return masked


def _assigned(found: re.Match[str]) -> str:
    name = found[found.lastindex or 0]
    value = found[0][len(name) :]
    opening = _OPENING.match(value)
    if opening is None:
        return f"{name}{SECRET}"
    quote = opening[0]
    closed = len(value) > len(quote) and value.endswith(quote)
    return f"{name}{quote}{SECRET}{quote if closed else ''}"


def _given(commands: list[tuple[int, int]], found: re.Match[str]) -> str:
    """Replace what follows ``-p``, where a command before it takes a password so."""
    option, gap, value = found.groups()
    if not _takes_password(commands, found) or _NO_PASSWORD.match(value):
        return found[0]
    user = ""
    if option == "-u":  # user:password
        user, colon, password = value.partition(":")
        if not password:
            return found[0]
        user += colon
    opening = _OPENING.match(value)
    quote = opening[0] if opening is not None else ""
    closed = bool(quote) and len(value) > len(quote) and value.endswith(quote)
    return f"{option}{gap}{user or quote}{SECRET}{quote if closed else ''}"


def _takes_password(commands: list[tuple[int, int]], found: re.Match[str]) -> bool:
    """Whether one of the last commands before this option takes it, and none begins between."""
    end = found.start()
    place = bisect_left(commands, (end,))
    for begin, kind in reversed(commands[max(0, place - _COMMANDS_BACK) : place]):
        if end - begin > _BEFORE:
            return False
        option, may_stand_apart = _TAKES[kind]
        if option == found[1] and (may_stand_apart or not found[2]):
            return all(found.string.find(mark, begin, end) < 0 for mark in ("\n", ";", "|", "&&"))
    return False
