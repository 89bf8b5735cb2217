"""Numbers as a person says them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest_name(key: object, known: Iterable[str]) -> str:
    """A hint for a wrong name: 'did you mean ...?' or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(str(key), names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(names)}"


def format_count(num: int, singular: str, plural: str | None = None) -> str:
    """`1 picture`, `1,162 pictures`; `many` where it is more than `one` with an s: `count(1, "class", "classes")`.
    A verb may come along: `count(num, "picture looks", "pictures look")`."""
    return f"{num:,} {singular if num == 1 else plural or f'{singular}s'}"


def format_class_count(num: int, multi_label: bool) -> str:
    """`1 class`, `10 classes`; `4 labels` where a picture may bear several."""
    return format_count(num, "label") if multi_label else format_count(num, "class", "classes")
