"""Twins: a second object with the state of a client, whose class does a little more. And copies.

For SDKs that make every request through one method of one object. The twin's class is a subclass
of the client's own, under the same name, and the two share one ``__dict__``: connections,
credentials and settings are the same, whichever of them changes them. The client stays bare.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["CopyOf", "Twin", "bare_class", "state_of", "twin_of"]

_STATE = "_receipt_usage_state"


class Twin:
    """What every twin's class begins with."""

    __slots__ = ()

    def __del__(self) -> None:
        """Close nothing: connections are closed by the client that opened them, or by ``close``."""

    def __deepcopy__(self, memo: Any) -> Any:
        """Return the twin of a deep copy of the client, where it can be copied so. The tracker is
        the same."""
        state, client = getattr(self, _STATE)
        return twin_of(copy.deepcopy(client, memo), type(self).__bases__[0], state)


def twin_of(client: Any, methods: Any, state: object) -> Any:
    """Return a twin of ``client`` with these methods over its own. It holds ``client``.

    A twin of a twin is one of the client itself: wrapped again, a call counts once.
    """
    twin: Any = object.__new__(_class_of(bare_class(type(client)), methods))
    twin.__dict__ = client.__dict__
    object.__setattr__(twin, _STATE, (state, client))
    return twin


def state_of(twin: Any) -> Any:
    """Return what the twin was made with."""
    return getattr(twin, _STATE)[0]


def bare_class(kind: type) -> type:
    """Return the client's own class, of a twin's class or of itself."""
    bases = kind.__mro__
    return bases[bases.index(Twin) + 1] if Twin in bases else kind


class CopyOf:
    """Makes a copy of an object, as what its ``__reduce_ex__`` says first: the copy gets its state,
    and is then given to ``finish``."""

    def __init__(self, kind: type, finish: Callable[[Any], object]) -> None:
        self._kind = kind
        self._finish = finish

    def __call__(self) -> Any:
        own: Any = object.__new__(self._kind)

        def set_state(state: dict[str, Any]) -> None:
            own.__dict__.clear()
            own.__dict__.update(state)
            self._finish(own)

        own.__dict__["__setstate__"] = set_state
        return own


@lru_cache(maxsize=16)
def _class_of(base: Any, methods: Any) -> type:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (methods, base), {"__slots__": (_STATE,), **names})
