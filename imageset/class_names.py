"""Names of classes: one spelling of each, and names that differ so little that they may be the same class."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from imageset.rejections import escape_control_characters

MAX_GROUPS_NAMED = 3
_INTEGER = re.compile(r"^([+-]?\d+)(?:\.0+)?$")


def normalize_class_name(name: str) -> str:
    """Return a class name in Unicode NFC and without blanks around it; "" if nothing is left."""
    return name.strip() if name.isascii() else unicodedata.normalize("NFC", name).strip()


def strip_zero_fraction(name: str) -> str:
    """Return "3" for "3.0", as numbers look that a program exported as floats; other names are unchanged."""
    match = _INTEGER.match(name)
    return match[1] if match else name


def are_integers(names: Iterable[str]) -> bool:
    """Return whether all names are integers, some perhaps with a fraction of zeros: "3", "4.0"."""
    return all(_INTEGER.match(name) for name in names)


def find_similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ by case, blanks, Unicode form or number format only, sorted."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups[_fold(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def describe_similar_names(names: Iterable[str]) -> str | None:
    """Return one line that names the classes which may be the same, or None."""
    groups = find_similar_names(names)
    if not groups:
        return None
    texts = [
        " and ".join(f"'{escape_control_characters(name)}'" for name in group)
        for group in groups[:MAX_GROUPS_NAMED]
    ]
    more = f", and {len(groups) - MAX_GROUPS_NAMED:,} more" if len(groups) > MAX_GROUPS_NAMED else ""
    return (
        "classes whose names differ by case, blanks or number format only are kept apart: "
        f"{', '.join(texts)}{more}; give them one name if they are one class"
    )


def _fold(name: str) -> str:
    text = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
    try:
        return repr(float(text)) if re.fullmatch(r"[+-]?\d+(\.\d*)?", text) else text
    except (ValueError, OverflowError):
        return text
