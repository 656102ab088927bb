# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG from Python calls; whatever is not markup already is escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

#: What a browser would obey, and not show: format characters turn the direction of a text, or hide.
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


class Markup(str):
    """Text that is HTML already, and goes into a page as it is."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. A trailing underscore of an attribute's name is dropped, one inside is a hyphen;
    an attribute that is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Markup:
    """One after the other; None is nothing."""
    return Markup(
        "".join(c if isinstance(c, Markup) else text(str(c)) for c in children if c is not None)
    )


def text(plain: str) -> Markup:
    """Escaped, as characters that a person sees and no browser obeys; line breaks and tabs stay."""
    if not plain.isprintable():
        plain = "".join(map(_seen, plain))
    return Markup(escape(plain))


def _seen(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures of Unicode
    return f"⟨U+{code:04X}⟩"


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> Markup:
    """A table whose first column names its rows. It can be scrolled, with the keyboard too."""
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", joined(body)))
    return tag("div", whole, class_="wide", tabindex=0, role="region", aria_label=caption)


def pairs(entries: Iterable[tuple[object, object]]) -> Markup:
    """Names with their values."""
    return tag("dl", *(tag("div", tag("dt", key), tag("dd", value)) for key, value in entries))


def folded(title: str, *children: object, is_open: bool = False) -> Markup:
    """Something that is opened with a click, or the keyboard."""
    opened = {"open": "open"} if is_open else {}
    return tag("details", tag("summary", title), *children, **opened)
