"""HTML that is safe by construction: every text is escaped when it becomes part of a page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from fastlog.health.report.numbers import printable

_VOID = frozenset(("meta", "input", "img", "br"))


class Html(str):
    """Text that is markup already. Only `element`, `joined` and the functions below make it."""

    __slots__ = ()


Content = str | None | Iterable["Content"]


def joined(*contents: Content) -> Html:
    """The contents one after the other: markup as it is, other text escaped, None as nothing."""
    parts = []
    for content in contents:
        if isinstance(content, Html):
            parts.append(str(content))
        elif isinstance(content, str):
            parts.append(escape(printable(content), quote=True))
        elif content is not None:
            parts.append(str(joined(*content)))
    return Html("".join(parts))


def element(name: str, /, *contents: Content, **attributes: str | float | bool | None) -> Html:
    """An element. ``class_`` is the attribute ``class``, ``data_row`` is ``data-row``; True: no value; None
    and False: no attribute.
    """
    opened = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            opened.append(key)
        elif value is not None and value is not False:
            text = value if isinstance(value, str) else f"{value:g}"
            opened.append(f'{key}="{escape(printable(text), quote=True)}"')
    start = f"<{' '.join(opened)}>"
    return Html(start if name in _VOID else f"{start}{joined(*contents)}</{name}>")


def verbatim(name: str, code: str) -> Html:
    """A script or style element. Raises ValueError where the code would end it."""
    if f"</{name}" in code.lower() or "<!--" in code:
        raise ValueError(f"the code of a {name} element must not contain its end or a comment")
    return Html(f"<{name}>{code}</{name}>")


def json_data(identifier: str, value: Any) -> Html:
    """A block of data that scripts read and browsers do not run."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')
