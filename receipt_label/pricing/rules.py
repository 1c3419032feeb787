"""Price rules: what a price file says, and which of its rules a call falls under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receipt_label.pricing.tariff import Tariff

ANY = "*"


def is_pattern(name: str) -> bool:
    """Whether a name is a glob rather than one model."""
    return any(sign in name for sign in "*?[")


def name_matches(pattern: str, name: str) -> bool:
    """Whether a model name falls under a name or glob. Both are lower case."""
    return fnmatchcase(name, pattern) if is_pattern(pattern) else pattern == name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One ``[[price]]`` of a file: rates (``tariff``), or a factor on the list price, or free.

    ``effective_from`` is inclusive, ``effective_until`` exclusive, both aware UTC; None is open.
    ``when`` holds what a call's context must say, ``"*"`` for anything or nothing. ``models`` are
    lower case; ``spelled`` has them as the file does.
    """

    service: str
    models: tuple[str, ...]
    effective_from: datetime | None = None
    effective_until: datetime | None = None
    when: Mapping[str, str] = field(default_factory=dict)
    tariff: Tariff | None = None
    batch_tariff: Tariff | None = None
    multiplier: Decimal = Decimal(1)
    batch_multiplier: Decimal | None = None
    free: bool = False
    note: str = ""
    spelled: Mapping[str, str] = field(default_factory=dict)

    def active(self, timestamp: datetime) -> bool:
        """Whether an aware time lies in the rule's period."""
        return (self.effective_from is None or timestamp >= self.effective_from) and (
            self.effective_until is None or timestamp < self.effective_until
        )

    def name_for(self, names: Sequence[str]) -> str:
        """Return the name or pattern, as the file spells it, under which a call's names fall."""
        for name in names:
            fits = [pattern for pattern in self.models if name_matches(pattern, name)]
            if fits:
                closest = max(fits, key=lambda pattern: (not is_pattern(pattern), len(pattern)))
                return self.spelled.get(closest, closest)
        return self.spelled.get(self.models[0], self.models[0])

    def overlaps(self, other: Rule) -> bool:
        """Whether the two periods share an instant."""
        return (
            self.effective_from is None
            or other.effective_until is None
            or self.effective_from < other.effective_until
        ) and (
            other.effective_from is None
            or self.effective_until is None
            or other.effective_from < self.effective_until
        )

    def accepts(self, context: Mapping[str, str]) -> bool:
        """Whether a call's context says what the rule asks for."""
        return all(value in (ANY, context.get(key)) for key, value in self.when.items())

    def tariff_for(self, context: Mapping[str, str]) -> Tariff | None:
        """Return the rates for a call's context, or None where the rule does not cover it."""
        beyond = {key: value for key, value in context.items() if key not in self.when}
        if beyond == {"processing": "batch"}:
            return self.batch_tariff
        return None if beyond else self.tariff

    def rank(self, service: str, names: Sequence[str]) -> tuple[int, int, int, int, int] | None:
        """Return how closely the rule fits (greater is closer), or None if it does not.

        ``names`` are the call's model names, the most particular first. An earlier name beats a
        later one; then an exact name a pattern; then more literal letters, a named service, and
        more named context values.
        """
        if self.service not in (ANY, service):
            return None
        for position, name in enumerate(names):
            fits = [pattern for pattern in self.models if name_matches(pattern, name)]
            if fits:
                exact = any(not is_pattern(pattern) for pattern in fits)
                letters = max(len(pattern.replace("*", "")) for pattern in fits)
                named = int(self.service != ANY)
                pairs = sum(value != ANY for value in self.when.values())
                return (-position, int(exact), letters, named, pairs)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBook:
    """All that one price file says. ``version`` names the file's content or date."""

    version: str
    rules: tuple[Rule, ...] = ()
    aliases: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def alias(self, service: str, model: str) -> str | None:
        """Return the model that a deployment stands for, the service's own entry first."""
        for scope in (service, ANY):
            for (owner, pattern), target in self.aliases.items():
                if owner == scope and name_matches(pattern, model):
                    return target
        return None

    def candidates(
        self, service: str, names: Sequence[str], context: Mapping[str, str] | None = None
    ) -> tuple[Rule, ...]:
        """Return the rules that fit a call at some time, in a context or any, the closest first."""
        ranked = [
            (rank, -order, rule)
            for order, rule in enumerate(self.rules)
            if (rank := rule.rank(service, names)) is not None
            and (context is None or rule.accepts(context))
        ]
        ranked.sort(key=lambda entry: entry[:2], reverse=True)
        return tuple(rule for _, _, rule in ranked)
