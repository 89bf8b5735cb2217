"""Text for messages and tables: counts, durations, suggestions for misspelled names and numbers, and safe text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal

from imageset.rejections import escape_control_characters

# A number as people write it that is text to YAML 1.1: 5e-2 and 1.5e3 (without a point or a sign), 0,05, 5%, "3"
NUMBER = re.compile(
    r"(?P<digits>[-+]?(\d+([.,]\d*)?|[.,]\d+))(e(?P<exponent>[-+]?\d{1,2}))?\s*(?P<percent>%?)", re.I
)

_FORMULA = re.compile(r"^'*[=+\-@\t\r]")  # a cell that a spreadsheet may run, or one that was escaped already
# Signs of Markdown, and those without which a web page makes no link of an address.
_MARKDOWN_SIGNS = re.compile(r"[\\`*_\[\]!|~#>$@{}]|:(?=//)|(?<=[wW]{3})\.")
_PLAIN_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


def escape_lines(text: str) -> str:
    """Return text for a terminal, in its lines: other control characters and direction marks are escapes."""
    return "\n".join(map(escape_control_characters, text.expandtabs().split("\n")))


def escape_cell(text: str) -> str:
    """Return text for a cell of CSV that no spreadsheet runs as a formula: "'=1+1" for "=1+1"; numbers stay."""
    return f"'{text}" if _FORMULA.match(text) and not _PLAIN_NUMBER.match(text) else text


def unescape_cell(text: str) -> str:
    """Return the text that `escape_cell` made safe."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def escape_markdown(text: str) -> str:
    """Return text for one line, or one cell of a table, of Markdown: nothing in it is markup or a link."""
    safe = _MARKDOWN_SIGNS.sub(r"\\\g<0>", escape_control_characters(text))
    return safe.replace("&", "&amp;").replace("<", "&lt;")


def suggest_name(key: object, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: "did you mean ...?", or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(str(key), names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known names: {', '.join(names)}"


def suggest_number(text: str, whole: bool) -> str:
    """Return a hint for text that looks like a number but is none to YAML 1.1: "; write 0.05 or 5.0e-2"; else "".

    Args:
        text: the value in the file.
        whole: whether a whole number is needed.
    """
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        return ""
    digits = Decimal(match["digits"].replace(",", "."))
    value = digits.scaleb(int(match["exponent"] or 0) - (2 if match["percent"] else 0))
    if whole:
        return f"; write {int(value)}" if value == int(value) else ""
    plain = f"{value.normalize():f}"
    if not match["exponent"] or match["percent"]:
        return f"; write {plain}"
    mantissa = f"{digits:f}" if "." in f"{digits:f}" else f"{digits:f}.0"
    return f"; write {plain} or {mantissa}e{int(match['exponent']):+d}"


def format_count(num: int, singular: str, plural: str | None = None) -> str:
    """Return a count with its noun: "1 picture", "1,162 pictures".

    Args:
        num: the count.
        singular: the noun, with a verb if there is one: "picture looks".
        plural: its plural if that is not `singular` with an s: "classes", "pictures look".
    """
    return f"{num:,} {singular if num == 1 else plural or f'{singular}s'}"


def format_class_count(num: int, multi_label: bool) -> str:
    """Return "1 class", "10 classes", or "4 labels" for a multi-label dataset."""
    return format_count(num, "label") if multi_label else format_count(num, "class", "classes")


def format_duration(seconds: float) -> str:
    """Return a duration without false precision: "a few seconds", "about 40 s", "about 3 min", "about 2 h"."""
    if seconds < 7.5:
        return "a few seconds"
    if seconds < 55:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    minutes = seconds / 60
    if minutes < 10:
        return f"about {max(1, round(minutes))} min"
    if minutes < 57.5:
        return f"about {5 * round(minutes / 5)} min"
    hours = minutes / 60
    return f"about {round(hours)} h"
