"""Numbers as a person says them."""


def count(num: int, one: str, many: str | None = None) -> str:
    """`1 picture`, `1,162 pictures`; `many` where it is more than `one` with an s: `count(1, "class", "classes")`.
    A verb may come along: `count(num, "picture looks", "pictures look")`."""
    return f"{num:,} {one if num == 1 else many or f'{one}s'}"


def count_kinds(num: int, multi_label: bool) -> str:
    """`1 class`, `10 classes`; `4 labels` where a picture may bear several."""
    return count(num, "label") if multi_label else count(num, "class", "classes")
