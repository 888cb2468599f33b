"""HTML from nested calls: whatever is not made here is escaped."""

import html
import math


class Markup(str):
    """Text that is HTML already and is not escaped again."""


# Elements that have no content and no closing tag.
_VOID = frozenset({"img", "meta", "link", "br"})


def escape(text) -> Markup:
    """``text`` as HTML, safe between tags and in quoted attributes; Markup stays as it is.

    Characters that UTF-8 cannot hold (in file names that are not UTF-8) become question marks.
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(str(text).encode("utf-8", "replace").decode("utf-8")))


def join(parts, separator: str = "") -> Markup:
    """Parts, each escaped unless it is Markup, one after another."""
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *content, **attributes) -> Markup:
    """An element; ``tag("td", "a < b", class_="name")`` is ``<td class="name">a &lt; b</td>``.

    Args:
        name: of the element.
        content: strings (escaped) and Markup; None is left out.
        attributes: an underscore at the end is dropped, others become hyphens; None leaves the
            attribute out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    opening = f"<{' '.join(parts)}>"
    if name in _VOID:
        return Markup(opening)
    inner = "".join(escape(part) for part in content if part is not None)
    return Markup(f"{opening}{inner}</{name}>")


def table(headers, rows, *, class_: str | None = None, caption: str | None = None) -> Markup:
    """A table in a box of its own, which scrolls where the table is wide or long.

    Args:
        headers: of the columns: text, or what :func:`number_header` makes.
        rows: each a list of ``<td>`` or ``<th>`` elements.
        class_: of the table; "sortable" lets a click on a header sort it.
        caption: above the table.
    """
    cells = [h if isinstance(h, Markup) else tag("th", h, scope="col") for h in headers]
    head = tag("tr", *cells)
    body = join(tag("tr", *row) for row in rows)
    title = tag("caption", caption) if caption else None
    whole = tag("table", title, tag("thead", head), tag("tbody", body), class_=class_)
    return tag("div", whole, class_="scroll")


def number_header(text: str) -> Markup:
    """The header of a column of :func:`number_cell`."""
    return tag("th", text, scope="col", class_="number")


def number_cell(value: float, digits: int = 2, *, signed: bool = False) -> Markup:
    """A ``<td>`` with a number, "–" for NaN; with ``signed`` green above zero and red below."""
    if not math.isfinite(value):
        return tag("td", "–", class_="number")
    kind = "number"
    if signed and round(value, digits) != 0:
        kind += " gain" if value > 0 else " loss"
    text = format_number(value, digits, signed=signed)
    return tag("td", text, class_=kind, data_value=f"{value:.10g}")


def format_number(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """``1,234.50``, with a sign if asked for; "–" for NaN and infinity."""
    if not math.isfinite(value):
        return "–"
    value = round(value, digits) + 0.0  # no "-0.00"
    return f"{value:{'+' if signed and value else ''},.{digits}f}".replace("-", "−")


def note(text: str) -> Markup:
    """A remark in one line, for example about what is left out."""
    return tag("p", text, class_="note")


def swatch(color) -> Markup:
    """A patch of a colour (r, g, b), 0-255."""
    red, green, blue = (int(channel) for channel in color)
    return tag("span", class_="swatch", style=f"background:rgb({red},{green},{blue})")
