"""The price book: one answer to what a call costs, from the first source that can say it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from receipt_label.pricing.catalog import (
    Catalog,
    Quote,
    normal_context,
    quote_of,
    references,
)
from receipt_label.pricing.listing import ModelEntry, PriceEntry, listed_entries, rule_entry
from receipt_label.pricing.money import ZERO, fit, product
from receipt_label.pricing.outcome import Price, PriceSource, Unpriced, refused
from receipt_label.pricing.price_file import load_price_file, parse_price_file
from receipt_label.pricing.rules import ANY, Rule, RuleBook

if TYPE_CHECKING:
    from receipt_label.pricing.catalog import Listing
    from receipt_label.pricing.tariff import Tariff
    from receipt_label.usage.reply import Usage

_LOG = logging.getLogger(__name__)

MAX_PLANS = 4096
"""Models (by service and context) whose way to a price is remembered, misses included."""

_new = tuple.__new__  # makes a Price 0.06 us sooner than its own constructor
_NO_CONTEXT: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Plan:
    """All that bears on the price of a model in a context, the closest rule first."""

    service: str
    model: str
    context: Mapping[str, str]
    overrides: tuple[Rule, ...]
    per_request: tuple[Rule, ...]
    quote: Quote | None
    ruled: bool


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be priced, as far as it differs between the calls of one plan."""

    timestamp: datetime
    usage: Usage | None
    api_calls: int
    fault: str | None


class PriceBook:
    """Prices of calls to AI services. Thread-safe; make one per process with ``load``.

    A price comes from the user's overrides, else the table of APIs priced per request, else the
    vendor's own figure, else genai-prices; failing all, the call is Unpriced, with a reason.
    """

    def __init__(self, catalog: Catalog, overrides: RuleBook, per_request: RuleBook) -> None:
        self._catalog = catalog
        self._overrides = overrides
        self._per_request = per_request
        self._version = catalog.version
        self._plans: dict[tuple[object, ...], Plan] = {}

    @classmethod
    def load(cls, overrides_file: Path | None = None) -> Self:
        """Return a book of the bundled prices and a price file's. Takes about 0.2 s, once.

        Raises PriceFileError, in one line, if the file is missing or wrong.
        """
        from importlib.resources import files  # here, for who defers the book does without it

        overrides = RuleBook(version="none")
        if overrides_file is not None:
            overrides = load_price_file(Path(overrides_file))
        bundled = files("receipt_label.pricing").joinpath("per_request.toml").read_bytes()
        return cls(Catalog(), overrides, parse_price_file(bundled, "per_request.toml"))

    @classmethod
    def deferred(cls, overrides_file: Path | None = None) -> PriceBook:
        """Return the book of ``load``, which is loaded when it is first asked.

        For programs that record what needs no price. A price file with a mistake leaves calls
        unpriced (``price_error``) and is logged.
        """
        return _DeferredPriceBook(overrides_file)

    def price(
        self,
        *,
        service: str,
        model: str,
        timestamp: datetime,
        usage: Usage | None,
        api_calls: int = 1,
        context: Mapping[str, str] = _NO_CONTEXT,
        provider_cost_usd: Decimal | None = None,
        fault: str | None = None,
    ) -> Price | Unpriced:
        """Return what one call costs in USD, or why that cannot be said. Thread-safe.

        ``timestamp`` (aware) selects the price in force. ``api_calls`` counts requests where those
        are charged; tokens are charged as they stand. ``context`` asks for a variant
        (``service_tier``, ``processing``, ...). ``fault`` is what the adapter found wrong.
        Raises ValueError for a naive timestamp or api_calls below 1, nothing else.
        """
        if timestamp.tzinfo is None:
            raise ValueError(f"timestamp {timestamp!r} is naive. Pass an aware time, such as UTC.")
        if api_calls < 1:
            raise ValueError(f"api_calls {api_calls!r} is below 1. Pass the number of requests.")
        try:
            key = (service, model, *context.items()) if context else (service, model)
            plan = self._plans.get(key) or self._plan(key, service, model, context)
            if plan.ruled:
                call = Call(timestamp, usage, api_calls, fault)
                outcome = self._by_rule(plan, call)
                if outcome is not None:
                    return outcome
            if provider_cost_usd is not None and _is_amount(provider_cost_usd):
                return Price(fit(provider_cost_usd), "provider", "reply")
            if fault is None and plan.quote is not None:
                tariff = plan.quote.at(timestamp)
                if tariff is not None:
                    cost = tariff.charge(usage, api_calls)
                    if cost.__class__ is Decimal:
                        return _new(Price, (cost, "genai-prices", self._version))
            return self._by_quote(plan.quote, Call(timestamp, usage, api_calls, fault))
        except Exception:  # a price must never cost its caller the record
            with suppress(Exception):  # a log handler of the pipeline's may raise
                _LOG.exception(
                    "pricing of %s %s failed; the call is kept, unpriced", service, model
                )
            return refused("price_error")

    def list_price_of(self, service: str, model: str) -> Quote | None:
        """Return what alone bears on the price of a model that was priced before, where that is
        genai-prices' list: such a price is of the source ``genai-prices``. Raises nothing."""
        plan = self._plans.get((service, model))
        return None if plan is None or plan.ruled else plan.quote

    def explain(
        self, model: str, service: str | None = None, at: datetime | None = None
    ) -> tuple[PriceEntry, ...]:
        """Return the prices of a model at an aware time (now), the one that applies first.

        Without a service: those of every service that sells it; a rule for whatever a service
        sells does not say so. Variants (batch, priority, ...) follow the list price they vary.
        Empty for an unknown model. Raises ValueError for a naive time.
        """
        moment = datetime.now(UTC) if at is None else at
        if moment.tzinfo is None:
            raise ValueError(f"at {moment!r} is naive. Pass an aware time, such as UTC.")
        found: list[PriceEntry] = []
        for name in [service] if service is not None else self._services():
            entries = list(self._explain(name, model, moment))
            if service is not None or not all(entry.is_for_any_model for entry in entries):
                found += entries
        return tuple(entry for index, entry in enumerate(found) if entry not in found[:index])

    def _explain(self, service: str, model: str, moment: datetime) -> Iterator[PriceEntry]:
        scope, names, listing = self._resolve(service, model)
        for book, source in self._books():
            for rule in book.candidates(scope, names):
                if rule.active(moment):
                    yield rule_entry(rule, book, source, names)
        if listing is not None:
            yield from listed_entries(listing, moment, self._version)

    def models(self, service: str | None = None) -> tuple[ModelEntry, ...]:
        """Return what has a price, of one service or all: overrides, bundled, genai-prices'."""
        wanted = None if service is None else service.strip().lower()
        entries = [
            ModelEntry(
                service=rule.service,
                model=rule.spelled.get(name, name),
                source="declared_free" if rule.free else source,
                version=book.version,
                note=rule.note,
            )
            for book, source in self._books()
            for rule in book.rules
            if wanted is None or rule.service in (ANY, wanted)
            for name in rule.models
        ]
        provider = None if wanted is None else self._catalog.provider(wanted)
        for seller in self._catalog.providers() if wanted is None else filter(None, [provider]):
            entries += [
                ModelEntry(
                    service=seller.id,
                    model=listed.id,
                    source="genai-prices",
                    version=self._version,
                    note=listed.name or "",
                )
                for listed in seller.models
            ]
        return tuple(entries)

    def _books(self) -> tuple[tuple[RuleBook, PriceSource], ...]:
        return ((self._overrides, "override"), (self._per_request, "per_request"))

    def _services(self) -> list[str]:
        """Return every service that some source names."""
        named = [rule.service for book, _ in self._books() for rule in book.rules]
        known = [provider.id for provider in self._catalog.providers()]
        return list(dict.fromkeys([*(name for name in named if name != ANY), *known]))

    def _by_quote(self, quote: Quote | None, call: Call) -> Price | Unpriced:
        """Price by genai-prices' data."""
        if quote is None:
            reason = call.fault if call.usage is None and call.fault == "failed_call" else None
            return refused(reason or "unknown_model")
        return _charged(quote.at(call.timestamp), call, "genai-prices", self._version)

    def _by_rule(self, plan: Plan, call: Call) -> Price | Unpriced | None:
        """Price by the closest rule in force, the user's before the bundled; None without one."""
        plans = (plan.overrides, plan.per_request)
        for (book, source), rules in zip(self._books(), plans, strict=True):
            rule = next((rule for rule in rules if rule.active(call.timestamp)), None)
            if rule is None:
                continue
            if rule.free:
                return Price(ZERO, "declared_free", book.version)
            if rule.tariff is None:
                return self._by_factor(rule, plan, call)
            tariff = rule.tariff_for(plan.context)
            return _charged(tariff, call, source, book.version)
        return None

    def _by_factor(self, rule: Rule, plan: Plan, call: Call) -> Price | Unpriced:
        """Price by a factor on the list price: the per-request table's, else genai-prices'."""
        factor = rule.multiplier
        if rule.batch_multiplier is not None and plan.context.get("processing") == "batch":
            factor = product(factor, rule.batch_multiplier)
            plan = self._plan_of(plan.service, plan.model, _without(plan.context, "processing"))
        listed = self._by_rule(replace(plan, overrides=()), call)
        if listed is None:
            listed = self._by_quote(plan.quote, call)
        if isinstance(listed, Unpriced) or listed.source == "declared_free":
            return listed
        version = f"{self._overrides.version} {listed.version}"
        return Price(product(listed.cost_usd, factor), "override", version)

    def _plan(
        self, key: tuple[object, ...], service: str, model: str, context: Mapping[str, str]
    ) -> Plan:
        """Make and remember the plan of a key; the oldest quarter goes when there are too many.

        Without a lock: each step is atomic, a plan made twice is the same plan, and a signal
        handler or the child of a fork must never wait here for a thread that cannot go on.
        """
        plan = self._plan_of(service, model, normal_context(context))
        if len(self._plans) >= MAX_PLANS:
            for old in list(self._plans)[: MAX_PLANS // 4]:
                self._plans.pop(old, None)
        self._plans[key] = plan
        return plan

    def _plan_of(self, service: str, model: str, context: Mapping[str, str]) -> Plan:
        """Return all that bears on a model's price in a context, which is normal already."""
        scope, names, listing = self._resolve(service, model)
        quote = None if listing is None else quote_of(listing, context)
        overrides = self._overrides.candidates(scope, names, context)
        per_request = self._per_request.candidates(scope, names, context)
        return Plan(
            service=scope,
            model=model,
            context=context,
            overrides=overrides,
            per_request=per_request,
            quote=quote,
            ruled=bool(overrides or per_request),
        )

    def _resolve(self, service: str, model: str) -> tuple[str, list[str], Listing | None]:
        """Return the service, the names that a rule may call the model, and its listing.

        The first name is the one given; then the model that an alias says it is; then the name
        without a path; then the name of genai-prices' entry, so that a rule for ``gpt-4o`` holds
        for ``gpt-4o-2024-08-06``.
        """
        scope, name = service.strip().lower(), model.strip().lower()
        target = self._overrides.alias(scope, name)
        listing = self._catalog.find(scope, target or name)
        names = [name, *([target] if target else []), *references(target or name)]
        if listing is not None:
            names.append(listing.model.id.lower())
        return scope, list(dict.fromkeys(names)), listing


class _DeferredPriceBook(PriceBook):
    """A book whose pages are read when the first of them is looked up. Thread-safe: two threads
    that look at once read the same."""

    def __init__(self, overrides_file: Path | None) -> None:
        self._overrides_file = overrides_file

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__.update(PriceBook.load(self._overrides_file).__dict__)
        return self.__dict__[name]


def _charged(
    tariff: Tariff | None, call: Call, source: PriceSource, version: str
) -> Price | Unpriced:
    """Charge a call by a tariff, or by none: a context that the source does not cover.

    A failed call that carries usage was billed, and is priced; figures that contradict each other
    are not used, which leaves only what is charged per request.
    """
    usage = None if call.fault == "inconsistent_usage" else call.usage
    if usage is None and call.fault == "failed_call":
        return refused(call.fault)
    if tariff is None:
        return refused("price_error")
    cost = tariff.charge(usage, call.api_calls)
    if isinstance(cost, Decimal):
        return Price(cost, source, version)
    return refused(call.fault if cost == "no_usage" and call.fault is not None else cost)


def _is_amount(cost: Decimal) -> bool:
    return isinstance(cost, Decimal) and cost.is_finite() and cost >= 0


def _without(context: Mapping[str, str], dropped: str) -> dict[str, str]:
    return {key: value for key, value in context.items() if key != dropped}
