"""ClientManager: the clients of one process, made when they are first used, already wrapped."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from receipt_dynamo import ConfigurationError, Settings, UsageClient, open_usage_client
from receipt_label.tracker import AIUsageTracker

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

__all__ = ["ClientConfig", "ClientManager", "get_client_manager"]

_T = TypeVar("_T")
_FALSE = frozenset({"0", "false", "no", "off"})
_TRUE = frozenset({"", "1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What a ClientManager makes its clients from. Keys never show in its repr.

    ``settings`` are those of the usage client (table, region, directory). ``track_usage`` False
    leaves the vendors' clients bare. ``user_id`` is carried by every record that names no other.
    """

    settings: Settings
    openai_api_key: str | None = field(default=None, repr=False)
    anthropic_api_key: str | None = field(default=None, repr=False)
    user_id: str | None = None
    track_usage: bool = True

    @property
    def dynamo_table(self) -> str | None:
        """The table that records go to; None is the embedded store."""
        return self.settings.table_name

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **explicit: Any) -> Self:
        """Return the configuration of ``environ`` (default: this process's).

        ``DYNAMODB_TABLE_NAME`` (``DYNAMO_TABLE_NAME`` still works, with a DeprecationWarning; the
        new name wins), ``OPENAI_API_KEY``, ``ANTHROPIC_API_KEY``, ``USER_ID``, ``TRACK_AI_USAGE``,
        and what ``Settings.from_env`` reads. ``explicit`` are fields of this class, which win.
        Requires no key: one that is missing is named where its client is first used. Raises
        ConfigurationError that names a variable whose value cannot be right.
        """
        variables = os.environ if environ is None else environ
        found: dict[str, Any] = {
            "openai_api_key": variables.get("OPENAI_API_KEY") or None,
            "anthropic_api_key": variables.get("ANTHROPIC_API_KEY") or None,
            "user_id": variables.get("USER_ID") or None,
            "track_usage": _switch("TRACK_AI_USAGE", variables.get("TRACK_AI_USAGE", "")),
        }
        found.update((name, value) for name, value in explicit.items() if value is not None)
        if "settings" not in found:
            found["settings"] = Settings.from_env(variables)
        try:
            return cls(**found)
        except TypeError as error:
            raise ConfigurationError(f"unknown field of ClientConfig: {error}") from None


def _switch(name: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ConfigurationError(f"{name}={text!r} is neither true nor false: set it to either")
    return word not in _FALSE


class ClientManager:
    """Holds the clients of one process: each is made once, when it is first used. Thread-safe.

    ``dynamo`` is the usage client of the environment (a ResilientDynamoClient where a table is
    named, whatever it is called), ``usage_tracker`` records through it, ``openai`` and
    ``anthropic`` are the vendors' own clients, wrapped. ``close`` closes what was made here and
    nothing else. In a child of a fork the vendors' clients are made anew: connections are not
    shared. Raises RuntimeError for a client that is asked for after ``close``.
    """

    def __init__(self, config: ClientConfig | None = None) -> None:
        self.config = ClientConfig.from_env() if config is None else config
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}  # Guarded by _lock, as are the next two
        self._closers: list[tuple[str, Callable[[], object]]] = []
        self._closed = False
        self._inherited: list[object] = []
        _managers.add(self)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def dynamo(self) -> UsageClient:
        """The usage client. Raises ConfigurationError where the environment requires a table."""
        return self._once("dynamo", self._open_dynamo)

    @property
    def usage_tracker(self) -> AIUsageTracker:
        """The tracker, which records through ``dynamo``."""
        return self._once("usage_tracker", self._open_tracker)

    @property
    def openai(self) -> OpenAI:
        """The client of OpenAI's SDK, wrapped. Raises ConfigurationError without a key."""
        return self._once("openai", self._open_openai)

    @property
    def anthropic(self) -> Anthropic:
        """The client of Anthropic's SDK, wrapped. Raises ConfigurationError without a key."""
        return self._once("anthropic", self._open_anthropic)

    def _once(self, name: str, make: Callable[[], _T]) -> _T:
        with self._lock:
            if self._closed:
                raise RuntimeError(f"this ClientManager is closed: {name} was asked for too late")
            if name not in self._made:
                self._made[name] = make()
            made: _T = self._made[name]
            return made

    def _open_dynamo(self) -> UsageClient:
        client = open_usage_client(self.config.settings)
        self._closers.append(("dynamo", client.close))
        return client

    def _open_tracker(self) -> AIUsageTracker:
        user = self.config.user_id
        return AIUsageTracker(self.dynamo, defaults={"user_id": user} if user else None)

    def _open_openai(self) -> OpenAI:
        key = _required("OPENAI_API_KEY", self.config.openai_api_key)
        client: OpenAI = self._wrapped("openai", _sdk("openai").OpenAI(api_key=key))
        return client

    def _open_anthropic(self) -> Anthropic:
        key = _required("ANTHROPIC_API_KEY", self.config.anthropic_api_key)
        client: Anthropic = self._wrapped("anthropic", _sdk("anthropic").Anthropic(api_key=key))
        return client

    def _wrapped(self, name: str, client: Any) -> Any:
        self._closers.append((name, client.close))
        return self.usage_tracker.wrap(client) if self.config.track_usage else client

    def close(self) -> None:
        """Flush, and close what this manager made. Any number of times.

        Raises what a vendor's client raises when it is closed, after everything else was closed.
        """
        with self._lock:
            self._closed = True
            closers, self._closers = self._closers, []
            tracker = self._made.get("usage_tracker")
            self._made.clear()
        failures: list[Exception] = []
        if tracker is not None:
            closers.append(("usage_tracker", tracker.close))
        # The vendors' clients end before the store: their last streams are still recorded.
        order = {"dynamo": 2, "usage_tracker": 1}
        for _, close in sorted(closers, key=lambda pair: order.get(pair[0], 0)):
            try:
                close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _forget_after_fork(self) -> None:
        """In a child: the parent's connections stay the parent's, and are never closed here."""
        self._lock = threading.RLock()
        for name in ("openai", "anthropic"):
            inherited = self._made.pop(name, None)
            if inherited is not None:
                self._inherited.append(inherited)
        self._closers = [pair for pair in self._closers if pair[0] == "dynamo"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        made = ", ".join(sorted(self._made)) or "nothing made yet"
        return f"<ClientManager {'closed' if self._closed else made}>"


def _required(variable: str, value: str | None) -> str:
    if not value:
        raise ConfigurationError(
            f"{variable} is not set. Set it, or pass {variable.lower()} to ClientConfig."
        )
    return value


def _sdk(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigurationError(f"the package {name!r} is missing: pip install {name}") from None


_managers: weakref.WeakSet[ClientManager] = weakref.WeakSet()
_manager: ClientManager | None = None  # Guarded by _manager_lock
_manager_lock = threading.RLock()


def get_client_manager(config: ClientConfig | None = None) -> ClientManager:
    """Return the one manager of this process; made at the first call, from ``config`` if given.

    Thread-safe. After its ``close`` the next call makes a new one. Raises RuntimeError for a
    ``config`` that differs from that of the manager which is there, ConfigurationError as
    ``ClientConfig.from_env`` does.
    """
    global _manager  # noqa: PLW0603 - one manager a process is the point
    with _manager_lock:
        if _manager is None or _manager.closed:
            _manager = ClientManager(config)
        elif config is not None and config != _manager.config:
            raise RuntimeError(
                "this process has a ClientManager of another configuration: close it first, or "
                "make one of your own with ClientManager(config)"
            )
        return _manager


def _forget_all() -> None:
    global _manager_lock  # noqa: PLW0603 - a thread of the parent's may have held the old one
    _manager_lock = threading.RLock()
    for manager in list(_managers):
        manager._forget_after_fork()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_forget_all)
