"""HTML and SVG by elements: what is not markup already is escaped, so nothing can be forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["Html", "element", "join"]

_VOID = frozenset({"link", "meta"})
_SHAPES = frozenset({"circle", "line", "path", "rect", "use"})
_UNSAYABLE = dict.fromkeys((*range(9), 11, *range(14, 32), 127), "�")


class Html(str):
    """Markup that is put in as it stands."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """Return one element. A child that is not Html is escaped, None is left out.

    An attribute that is None or False is left out, True stands bare; ``class_`` is ``class`` and
    ``aria_label`` is ``aria-label``.
    """
    opening = name + "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{opening}>")
    if name in _SHAPES and not children:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Return the parts one after the other, escaped where they are not Html."""
    return Html(
        between.join(
            part if isinstance(part, Html) else _text(part) for part in parts if part is not None
        )
    )


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    """Escape a text; what neither HTML nor UTF-8 can carry is replaced."""
    clean = str(value).translate(_UNSAYABLE).encode("utf-8", "replace").decode("utf-8")
    return escape(clean)
