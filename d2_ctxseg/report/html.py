"""Renders HTML with Jinja: all values are escaped unless they are Markup."""

import math
import re
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

# Lines of more runs than this have the first ones' colours again.
NUM_COLORS = 8
_TEMPLATES = Path(__file__).with_name("templates")


def render(template: Path, **values) -> str:
    """A page from a template, which may import and extend those of this package.

    Characters that UTF-8 cannot hold (in file names that are not UTF-8) become question marks.
    """
    page = _environment(template.parent).get_template(template.name).render(**values)
    return page.encode("utf-8", "replace").decode("utf-8")


def render_report(**values) -> str:
    """The page about runs."""
    return render(_TEMPLATES / "report.html", **values)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "short": short, "breakable": breakable}
    environment.globals |= {"cell": number_cell, "NUM_COLORS": NUM_COLORS}
    return environment


def format_number(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """``1,234.50``, with a sign if asked for; "–" for NaN and infinity."""
    if not math.isfinite(value):
        return "–"
    value = round(value, digits) + 0.0  # no "-0.00"
    return f"{value:{'+' if signed and value else ''},.{digits}f}".replace("-", "−")


def number_cell(value: float, digits: int = 2, *, signed: bool = False, text: str = "") -> Markup:
    """A ``<td>`` with a number, "–" for NaN; with ``signed`` in the colour of a gain or a loss.

    Args:
        value: the value that the column is sorted by.
        digits: after the point.
        signed: whether it is a change.
        text: shown in place of the number.
    """
    kind, known = "number", math.isfinite(value)
    if signed and known and round(value, digits) != 0:
        kind += " gain" if value > 0 else " loss"
    place = Markup(' data-value="{:.10g}"').format(value) if known else ""
    shown = text or format_number(value, digits, signed=signed)
    return Markup('<td class="{}"{}>{}</td>').format(kind, place, shown)


def short(text: str, length: int = 20) -> str:
    """The text, cut if it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def breakable(text: str) -> Markup:
    """The text, which may also be broken after each ``_``, ``/`` and ``.``: names are long."""
    escaped = str(escape(text))
    return Markup(re.sub(r"([_/.]+)(?=[^_/.])", r"\1<wbr>", escaped))
