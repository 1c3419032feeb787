"""The price book: one answer to what a call costs, from the first source that can say it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from importlib.resources import files
from itertools import islice
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from receipt_label.pricing.catalog import Catalog, Quote, normal_context, quote_of, references
from receipt_label.pricing.money import ZERO, fit, product
from receipt_label.pricing.outcome import Price, PriceSource, Unpriced, refused
from receipt_label.pricing.price_file import load_price_file, parse_price_file
from receipt_label.pricing.rules import Rule, RuleBook

if TYPE_CHECKING:
    from receipt_label.pricing.tariff import Tariff
    from receipt_label.usage.reply import Usage

_LOG = logging.getLogger(__name__)

MAX_PLANS = 4096
"""Models (by service and context) whose way to a price is remembered, misses included."""

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


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be priced, as far as it differs between the calls of one plan."""

    timestamp: datetime
    usage: Usage | None
    api_calls: int
    fault: str | None

    @property
    def unbelievable(self) -> Unpriced | None:
        """The refusal that a fault alone demands: nothing was used, or nothing can be believed.

        A failed call that carries usage was billed, and is priced.
        """
        if self.fault is None or (self.usage is not None and self.fault != "inconsistent_usage"):
            return None
        return refused(self.fault)


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
        self._lock = Lock()  # Guards the size of _plans; reads go without it.

    @classmethod
    def load(cls, overrides_file: Path | None = None) -> Self:
        """Return a book of the bundled prices and a price file's. Takes about 0.2 s, once.

        Raises PriceFileError, in one line, if the file is missing or wrong.
        """
        overrides = RuleBook(version="none")
        if overrides_file is not None:
            overrides = load_price_file(Path(overrides_file))
        bundled = files("receipt_label.pricing").joinpath("per_request.toml").read_bytes()
        return cls(Catalog(), overrides, parse_price_file(bundled, "per_request.toml"))

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
            if plan.overrides or plan.per_request:
                call = Call(timestamp, usage, api_calls, fault)
                outcome = self._by_rule(plan, call)
                if outcome is not None:
                    return outcome
            if provider_cost_usd is not None and _is_amount(provider_cost_usd):
                return Price(fit(provider_cost_usd), "provider", "reply")
            if fault is None and plan.quote is not None and usage is not None:
                tariff = plan.quote.at(timestamp)
                cost = "price_error" if tariff is None else tariff.charge(usage, api_calls)
                if cost.__class__ is Decimal:
                    return Price(cost, "genai-prices", self._version)
            return self._by_quote(plan.quote, Call(timestamp, usage, api_calls, fault))
        except Exception:  # a price must never cost its caller the record
            _LOG.exception("pricing of %s %s failed; the call is kept, unpriced", service, model)
            return refused("price_error")

    def _by_quote(self, quote: Quote | None, call: Call) -> Price | Unpriced:
        """Price by genai-prices' data."""
        if call.unbelievable is not None:
            return call.unbelievable
        if quote is None:
            return refused("unknown_model")
        return _charged(quote.at(call.timestamp), call, "genai-prices", self._version)

    def _by_rule(self, plan: Plan, call: Call) -> Price | Unpriced | None:
        """Price by the closest rule in force, the user's before the bundled; None without one."""
        books: tuple[tuple[RuleBook, tuple[Rule, ...], PriceSource], ...] = (
            (self._overrides, plan.overrides, "override"),
            (self._per_request, plan.per_request, "per_request"),
        )
        for book, rules, source in books:
            rule = next((rule for rule in rules if rule.active(call.timestamp)), None)
            if rule is None:
                continue
            if rule.free:
                return Price(ZERO, "declared_free", book.version)
            if rule.tariff is None:
                return self._by_factor(rule, plan, call)
            tariff = rule.tariff_for(plan.context)
            return call.unbelievable or _charged(tariff, call, source, book.version)
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
        """Make and remember the plan of a key; the oldest quarter goes when there are too many."""
        plan = self._plan_of(service, model, normal_context(context))
        with self._lock:
            if len(self._plans) >= MAX_PLANS:
                for old in list(islice(self._plans, MAX_PLANS // 4)):
                    del self._plans[old]
            self._plans[key] = plan
        return plan

    def _plan_of(self, service: str, model: str, context: Mapping[str, str]) -> Plan:
        """Return all that bears on a model's price in a context, which is normal already."""
        scope, name = service.strip().lower(), model.strip().lower()
        target = self._overrides.alias(scope, name)
        listing = self._catalog.find(scope, target or name)
        names = [name, *([target] if target else []), *references(target or name)]
        if listing is not None:
            names.append(listing.model.id.lower())
        names = list(dict.fromkeys(names))
        return Plan(
            service=scope,
            model=name,
            context=context,
            overrides=self._overrides.candidates(scope, names, context),
            per_request=self._per_request.candidates(scope, names, context),
            quote=None if listing is None else quote_of(listing, context),
        )


def _charged(
    tariff: Tariff | None, call: Call, source: PriceSource, version: str
) -> Price | Unpriced:
    if tariff is None:
        return refused("price_error")
    cost = tariff.charge(call.usage, call.api_calls)
    return Price(cost, source, version) if isinstance(cost, Decimal) else refused(cost)


def _is_amount(cost: Decimal) -> bool:
    return isinstance(cost, Decimal) and cost.is_finite() and cost >= 0


def _without(context: Mapping[str, str], dropped: str) -> dict[str, str]:
    return {key: value for key, value in context.items() if key != dropped}
