"""Reading price files: TOML in, validated rules out, every fault in one line with its remedy."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from receipt_label.pricing.catalog import is_standard
from receipt_label.pricing.rules import ANY, Rule, RuleBook
from receipt_label.pricing.tariff import Rate, Tariff, compile_tariff
from receipt_label.pricing.units import CORE_FIELDS, Unit, canonical, custom_unit, joins, vocabulary

FILE_KEYS = ("price", "aliases", "units", "as_of", "sources")
PRICE_KEYS = (
    "service", "model", "aliases", "effective_from", "effective_until", "when", "rates", "per",
    "multiplier", "batch_multiplier", "free", "note", "source",
)  # fmt: skip
RATE_KEYS = ("usd", "per", "tiers")
TIER_KEYS = ("above", "usd")


class PriceFileError(ValueError):
    """A price file that cannot be used. One line: the file, the thing, the value, the remedy."""


@dataclass(frozen=True, slots=True)
class _At:
    """A place in a price file, for the message of a fault there."""

    file: str
    place: str = ""

    def inside(self, place: str) -> _At:
        return _At(self.file, f"{self.place} {place}".strip())

    def fail(self, text: str) -> NoReturn:
        where = f"{self.file}: {self.place}: " if self.place else f"{self.file}: "
        raise PriceFileError(where + text)

    def check_keys(self, table: Mapping[str, object], allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                near = get_close_matches(key, allowed, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                self.fail(f"unknown key {key!r}; {hint}Allowed are {', '.join(allowed)}.")

    def text(self, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{value!r} is not a name. Write a non-empty string.")
        return value.strip().lower()

    def table(self, value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            self.fail(f"{value!r} is not a table. Write {{ name = value }}.")
        return value

    def amount(self, value: object, *, positive: bool = False) -> Decimal:
        """Return a non-negative finite Decimal from a string, an integer or a TOML float."""
        number: Decimal | None = None
        if isinstance(value, (str, int, Decimal)) and not isinstance(value, bool):
            try:
                number = Decimal(value)
            except InvalidOperation:
                number = None
        if number is None or not number.is_finite() or abs(number.adjusted()) > _MOST_ZEROS:
            self.fail(f'{_shown(value)} is not a decimal number. Write it as "2.50".')
        if number < 0 or (positive and number == 0):
            fault = "negative" if number < 0 else "zero"
            least = "above 0" if positive else "of 0 or more"
            self.fail(f"{_shown(value)} is {fault}. Write a number {least}.")
        return number

    def count(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.fail(f"{_shown(value)} is not a whole number of 1 or more. Write, say, 1_000_000.")
        return value

    def instant(self, value: object) -> datetime:
        """Return an aware UTC time from a TOML date (its first instant) or date-time."""
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                self.fail(f"{value!r} is not a date. Write 2026-01-31 or 2026-01-31T12:00:00Z.")
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            try:
                return aware.astimezone(UTC)
            except OverflowError:
                self.fail(f"{value} is outside the years 1 to 9999. Write 2026-01-31.")
        if not isinstance(value, date):
            self.fail(f"{value!r} is not a date. Write 2026-01-31 or 2026-01-31T12:00:00Z.")
        return datetime.combine(value, time.min, UTC)


_MOST_BYTES = 16 << 20
_MOST_ZEROS = 100  # digits before or behind the decimal point of any price, and then some


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Decimal) else repr(value)


def load_price_file(path: Path) -> RuleBook:
    """Return the rules of a price file; its version is ``sha256:`` and 12 hex digits of its bytes.

    Raises PriceFileError, in one line, for a file that is missing, unreadable or wrong.
    """
    at = _At(str(path))
    if path.is_dir():
        at.fail("is a directory. Name a TOML file.")
    if path.exists() and not path.is_file():
        at.fail("is no regular file. Name a TOML file.")
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        at.fail("no such price file. Create it, or unset RECEIPT_USAGE_PRICES.")
    except OSError as error:
        at.fail(f"cannot be read ({error.strerror}). Make it readable, or name another file.")
    if len(content) > _MOST_BYTES:
        at.fail(f"has more than {_MOST_BYTES:,} bytes. Name a TOML file of prices.")
    version = f"sha256:{hashlib.sha256(content).hexdigest()[:12]}"
    return parse_price_file(content, at.file, version)


def parse_price_file(content: bytes, name: str, version: str | None = None) -> RuleBook:
    """Return the rules in a price file's bytes; without a version it is the file's ``as_of``.

    Raises PriceFileError.
    """
    at = _At(name)
    try:
        document = tomllib.loads(content.decode(), parse_float=Decimal)
    except UnicodeDecodeError:
        at.fail("is not text (UTF-8). Name a TOML file; see docs/prices.md for the form.")
    except RecursionError:
        at.fail("is nested too deeply. See docs/prices.md for the form.")
    except (tomllib.TOMLDecodeError, InvalidOperation) as error:
        at.fail(f"is not TOML ({error}). See docs/prices.md for the form.")
    at.check_keys(document, FILE_KEYS)
    as_of = document.get("as_of")
    if as_of is not None:
        at.inside("as_of").instant(as_of)
    units = _read_units(document.get("units", {}), at.inside("[units]"))
    entries = document.get("price", [])
    if not isinstance(entries, list):
        at.fail("'price' is a single table. Write [[price]], with two brackets, for each rule.")
    rules = []
    for number, entry in enumerate(entries, 1):
        rules.append(_read_rule(entry, at.inside(f"[[price]] {number}"), units))
    _refuse_overlaps(rules, at)
    return RuleBook(
        version=version if version is not None else str(as_of),
        rules=tuple(rules),
        aliases=_read_aliases(document.get("aliases", {}), at.inside("[aliases]")),
    )


def _read_units(value: object, at: _At) -> dict[str, Unit]:
    units = {}
    for name, per in at.table(value).items():
        if name in vocabulary() or name in CORE_FIELDS:
            at.fail(f"{name!r} is a unit already. Leave it out, or give the rate its own 'per'.")
        units[name] = custom_unit(name, at.inside(name).count(per))
    return units


def _read_aliases(value: object, at: _At) -> dict[tuple[str, str], str]:
    aliases: dict[tuple[str, str], str] = {}
    for name, target in at.table(value).items():
        if isinstance(target, dict):
            for deployment, model in target.items():
                inside = at.inside(f"{name}.{deployment}")
                aliases[name.lower(), deployment.lower()] = inside.text(model)
        else:
            aliases[ANY, name.lower()] = at.inside(name).text(target)
    return aliases


def _read_rule(value: object, at: _At, units: Mapping[str, Unit]) -> Rule:
    entry = at.table(value)
    if isinstance(entry.get("model"), str):
        at = at.inside(f"({entry['model']})")
    at.check_keys(entry, PRICE_KEYS)
    if "model" not in entry:
        at.fail("has no 'model'. Name the model, or a pattern such as \"gpt-4o*\".")
    since = (
        at.inside("effective_from").instant(entry["effective_from"])
        if ("effective_from" in entry)
        else None
    )
    until = (
        at.inside("effective_until").instant(entry["effective_until"])
        if ("effective_until" in entry)
        else None
    )
    if since is not None and until is not None and since >= until:
        at.fail(
            f"effective_from {since:%Y-%m-%dT%H:%M:%SZ} is not before effective_until "
            f"{until:%Y-%m-%dT%H:%M:%SZ}. The period includes the first and ends at the second."
        )
    multiplier = at.inside("multiplier").amount(entry.get("multiplier", 1), positive=True)
    factor = entry.get("batch_multiplier")
    batch = None if factor is None else at.inside("batch_multiplier").amount(factor, positive=True)
    free = _read_free(entry, at)
    rates = _read_rates(entry, at, units) if "rates" in entry else None
    names = _read_names(entry, at)
    return Rule(
        service=at.inside("service").text(entry.get("service", ANY)),
        models=tuple(names),
        spelled=names,
        effective_from=since,
        effective_until=until,
        when=_read_when(entry, at),
        tariff=None if rates is None else _compile(rates, multiplier),
        batch_tariff=(
            None if rates is None or batch is None else _compile(rates, multiplier * batch)
        ),
        multiplier=multiplier,
        batch_multiplier=batch,
        free=free,
        note=str(entry.get("note", "")),
    )


def _read_when(entry: Mapping[str, object], at: _At) -> dict[str, str]:
    when = {}
    for key, wanted in at.inside("when").table(entry.get("when", {})).items():
        inside = at.inside(f"when.{key}")
        when[key] = inside.text(wanted)
        if is_standard(key, when[key]):
            inside.fail(
                f"{wanted!r} means the standard price, which needs no 'when'. Leave it out."
            )
    return when


def _compile(rates: list[Rate], multiplier: Decimal) -> Tariff:
    return compile_tariff(rates, multiplier=multiplier, free_of_charge=True)


def _read_free(entry: Mapping[str, object], at: _At) -> bool:
    priced = [key for key in ("rates", "multiplier", "batch_multiplier") if key in entry]
    free = entry.get("free", False)
    if not isinstance(free, bool):
        at.fail(f"free = {free!r} is not true or false. Write free = true, or leave it out.")
    if free and priced:
        at.fail(f"free = true and {priced[0]} contradict each other. Leave one of them out.")
    if not free and not priced:
        at.fail("says no price. Add rates, or a multiplier, or free = true.")
    return free


def _read_names(entry: Mapping[str, object], at: _At) -> dict[str, str]:
    """Return the names of a rule's models, in lower case and as they are spelled."""
    names: dict[str, str] = {}
    for key in ("model", "aliases"):
        value = entry.get(key, [])
        for name in value if isinstance(value, list) else [value]:
            names.setdefault(at.inside(key).text(name), str(name).strip())
    if not names:
        at.fail("has an empty 'model'. Name the model, or a pattern such as \"gpt-4o*\".")
    return names


def _read_rates(entry: Mapping[str, object], at: _At, own: Mapping[str, Unit]) -> list[Rate]:
    default = at.inside("per").count(entry["per"]) if "per" in entry else None
    known = {**vocabulary(), **own}
    allowed = tuple(sorted({*known, *CORE_FIELDS}))
    rates: dict[str, Rate] = {}
    inside = at.inside("rates")
    for key, value in inside.table(entry["rates"]).items():
        unit = known.get(canonical(key))
        if unit is None:
            near = get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            inside.fail(
                f"unknown unit {key!r}; {hint}Allowed are the units of docs/prices.md "
                "(input_tokens, cached_input_tokens, output_tokens, requests, ...) and those "
                "declared under [units]."
            )
        if unit.name in rates:
            inside.fail(f"{key!r} names {unit.name} a second time. Keep one of the two.")
        rates[unit.name] = _read_rate(value, inside.inside(key), unit, default)
    if not rates:
        inside.fail("is empty. Give a rate, or write free = true.")
    _refuse_gaps(rates, inside)
    return list(rates.values())


def _read_rate(value: object, at: _At, unit: Unit, default: int | None) -> Rate:
    if not isinstance(value, dict):
        return Rate(unit, at.amount(value), per=default)
    at.check_keys(value, RATE_KEYS)
    if "usd" not in value:
        at.fail("has no 'usd'. Write { usd = \"2.50\", per = 1_000_000 }.")
    tiers = []
    for tier in value.get("tiers", []):
        at.check_keys(at.table(tier), TIER_KEYS)
        if len(tier) != len(TIER_KEYS):
            at.fail('a tier lacks a key. Write { above = 200_000, usd = "5.00" }.')
        tiers.append(
            (at.inside("above").count(tier["above"]), at.inside("usd").amount(tier["usd"]))
        )
    per = at.inside("per").count(value["per"]) if "per" in value else default
    return Rate(unit, at.amount(value["usd"]), tuple(sorted(tiers)), per)


def _refuse_gaps(rates: Mapping[str, Rate], at: _At) -> None:
    """Refuse two rates for things that can be both, without a rate for what is both."""
    priced = [rate.unit for rate in rates.values()]
    for index, left in enumerate(priced):
        for right in priced[index + 1 :]:
            both = joins().get(left.dimensions | right.dimensions)
            if left.overlaps(right) and both is not None and both not in rates:
                at.fail(
                    f"{left.name} and {right.name} can be the same tokens, and nothing says what "
                    f"those cost. Add {both}."
                )


def _refuse_overlaps(rules: list[Rule], at: _At) -> None:
    for index, later in enumerate(rules):
        for number, earlier in enumerate(rules[:index], 1):
            shared = set(earlier.models) & set(later.models)
            same = earlier.service == later.service and earlier.when == later.when
            if shared and same and earlier.overlaps(later):
                at.fail(
                    f"[[price]] {number} and [[price]] {index + 1} both price "
                    f"{min(shared)!r} of service {later.service!r} at the same time. End one with "
                    "effective_until where the other begins with effective_from."
                )
