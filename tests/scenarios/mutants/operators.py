"""Mutation operators: those of Cosmic Ray that are used, and some of our own with its interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    break_continue,
    comparison_operator_replacement,
    number_replacer,
    unary_operator_replacement,
    zero_iteration_for_loop,
)
from cosmic_ray.operators.operator import Example, Operator
from parso.tree import Leaf, NodeOrLeaf

Position = tuple[tuple[int, int], tuple[int, int]]

# Of all pairs of operators one or two each: where these are noticed, the others are too.
COMPARISONS = ("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
               "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")  # fmt: skip
ARITHMETIC = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul",
              "LShift_RShift", "RShift_LShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd")  # fmt: skip
UNARY = ("Delete_USub", "Delete_Invert", "Delete_Not")


def _replace(node: Any, code: str) -> NodeOrLeaf:
    """Return code as a node in place of another, after the same spaces."""
    new = parso.parse(code).children[0]
    first = new.get_first_leaf()
    first.prefix = node.get_first_leaf().prefix
    new.parent = node.parent
    return new


def _position(node: Any) -> Position:
    return node.start_pos, node.end_pos


class RemoveStatement(Operator):
    """Puts `pass` in place of a call, a raise, a del or an augmented assignment."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "simple_stmt" and self._does_something(node.children[0]):
            yield _position(node.children[0])

    @staticmethod
    def _does_something(node: Any) -> bool:
        if node.type in ("raise_stmt", "del_stmt", "yield_expr"):
            return node.type != "yield_expr"
        if node.type == "expr_stmt":
            return node.children[1].type == "operator" and node.children[1].value not in ("=", ":=")
        last = node.children[-1] if node.type == "atom_expr" else None
        return last is not None and last.type == "trailer" and last.children[0].value == "("

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0] = _replace(node.children[0], "pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return Example("os.fsync(1)\n", "pass\n"), Example("a += 1\n", "pass\n"), Example("raise A\n", "pass\n")


class UnwrapCall(Operator):
    """Puts the first argument in place of a call of abs, sorted, reversed or set, and x in place of x.abs()."""

    NAMES = ("abs", "sorted", "reversed", "set")

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "atom_expr" and self._find_call(node):
            yield _position(node)

    def _find_call(self, node: Any) -> bool:
        *before, call = node.children
        if call.type != "trailer" or call.children[0].value != "(":
            return False
        name = before[-1].children[-1] if before[-1].type == "trailer" else before[-1]
        has_argument = len(call.children) == 3
        return name.type == "name" and name.value in self.NAMES and (has_argument or name.value == "abs")

    def mutate(self, node: Any, index: int) -> Any:
        call = node.children[-1]
        if len(call.children) == 2:  # a method
            return _replace(node, "".join(child.get_code() for child in node.children[:-2]).strip())
        inside = call.children[1]
        first = inside.children[0] if inside.type == "arglist" else inside
        code = first.get_code().strip()
        return _replace(node, f"({code})")

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x = abs(a - b)", "x = (a - b)"), Example("x = sorted(a, key=f)", "x = (a)"),
                Example("x = a.b.abs()", "x = a.b"))  # fmt: skip


class SwapFunction(Operator):
    """Calls the opposite function: min and max, any and all, and methods of strings."""

    PAIRS = (("min", "max"), ("any", "all"), ("startswith", "endswith"), ("removeprefix", "removesuffix"),
             ("find", "rfind"), ("partition", "rpartition"), ("minimum", "maximum"), ("floor", "ceil"),
             ("argmin", "argmax"))  # fmt: skip
    OPPOSITE = dict(PAIRS) | {second: first for first, second in PAIRS}

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "name" and node.value in self.OPPOSITE:
            following = node.get_next_leaf()
            if isinstance(following, Leaf) and following.value == "(":
                yield _position(node)

    def mutate(self, node: Any, index: int) -> Any:
        node.value = self.OPPOSITE[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return Example("x = all(a)", "x = any(a)"), Example("x = a.min()", "x = a.max()")


class SwapItems(Operator):
    """Swaps two neighbours of a tuple, a list or positional arguments, or the values of two keys of a dict."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        for one, _ in self._list_pairs(node):
            yield _position(one)

    def _list_pairs(self, node: Any) -> list[tuple[Any, Any]]:
        if node.type in ("arglist", "testlist_comp", "testlist_star_expr", "testlist"):
            items = list(node.children[::2])
            if self._has_no_order(node):
                return []
        elif node.type == "dictorsetmaker" and len(node.children) > 4 and _is_operator(node.children[1], ":"):
            items = list(node.children[2::4])
        else:
            return []
        plain = [child.type not in ("argument", "sync_comp_for", "comp_for", "star_expr") for child in items]
        return [
            (one, two)
            for one, two, is_first_plain, is_second_plain in zip(items, items[1:], plain, plain[1:], strict=False)
            if is_first_plain and is_second_plain and one.get_code().strip() != two.get_code().strip()
        ]

    @staticmethod
    def _has_no_order(node: Any) -> bool:
        """Whether another order means the same: targets, `in (a, b)`, `except (A, B)`, `isinstance(x, (A, B))`."""
        before, above = node.parent.get_previous_leaf(), node.parent.parent
        if node.type in ("arglist", "testlist_star_expr", "testlist"):
            following = node.get_next_leaf()
            is_target = node.type != "arglist" and following is not None and following.value in ("=", "in")
            return is_target or (before is not None and before.value in ("min", "max"))
        if before is not None and before.value in ("in", "except"):
            return True
        return above.type == "arglist" and above.parent.get_previous_leaf().value in ("isinstance", "issubclass")

    def mutate(self, node: Any, index: int) -> Any:
        one, two = self._list_pairs(node)[index]
        first, second = (next(place for place, child in enumerate(node.children) if child is item)
                         for item in (one, two))  # fmt: skip
        codes = one.get_code().strip(), two.get_code().strip()
        node.children[first], node.children[second] = _replace(one, codes[1]), _replace(two, codes[0])
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b)", "f(b, a)"), Example("x = (a, b, c)", "x = (a, c, b)", 1),
                Example("x = {'val': a, 'test': b}", "x = {'val': b, 'test': a}"))  # fmt: skip


def _is_operator(node: Any, value: str) -> bool:
    return isinstance(node, Leaf) and node.value == value


class ReplaceException(Operator):
    """Lets an `except` catch another class; Cosmic Ray's own fails at names with a dot."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "except_clause":
            yield from (_position(child) for child in self._list_classes(node).children[self._get_slice(node)])

    @staticmethod
    def _list_classes(node: Any) -> Any:
        """The node whose children the classes are."""
        classes = node.children[1]
        if classes.type != "atom":
            return node
        inside = classes.children[1]
        return inside if inside.type == "testlist_comp" else classes

    def _get_slice(self, node: Any) -> slice:
        return slice(0, None, 2) if self._list_classes(node).type == "testlist_comp" else slice(1, 2)

    def mutate(self, node: Any, index: int) -> Any:
        parent, places = self._list_classes(node), self._get_slice(node)
        place = range(len(parent.children))[places][index]
        parent.children[place] = _replace(parent.children[place], "ZeroDivisionError")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        code = "try:\n    a()\nexcept (A, b.B) as error:\n    pass\n"
        return (Example(code, code.replace("b.B", "ZeroDivisionError"), 1),
                Example("try: a()\nexcept b.B: pass", "try: a()\nexcept ZeroDivisionError: pass"))  # fmt: skip


class DropField(Operator):
    """Takes a replacement field out of an f-string."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "fstring":
            yield from (_position(child) for child in node.children if child.type == "fstring_expr")

    def mutate(self, node: Any, index: int) -> Any:
        fields = [child for child in node.children if child.type == "fstring_expr"]
        node.children = [child for child in node.children if child is not fields[index]]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x = f'{a}/{b}'", "x = f'{a}/'", 1),)


OWN = (RemoveStatement, UnwrapCall, SwapFunction, SwapItems, ReplaceException, DropField)
OPERATORS: dict[str, Operator] = {
    cls.__name__: cls()
    for cls in (
        *(getattr(comparison_operator_replacement, f"ReplaceComparisonOperator_{pair}") for pair in COMPARISONS),
        *(getattr(binary_operator_replacement, f"ReplaceBinaryOperator_{pair}") for pair in ARITHMETIC),
        *(getattr(unary_operator_replacement, f"ReplaceUnaryOperator_{pair}") for pair in UNARY),
        boolean_replacer.AddNot,
        boolean_replacer.ReplaceTrueWithFalse,
        boolean_replacer.ReplaceFalseWithTrue,
        boolean_replacer.ReplaceAndWithOr,
        boolean_replacer.ReplaceOrWithAnd,
        break_continue.ReplaceBreakWithContinue,
        break_continue.ReplaceContinueWithBreak,
        number_replacer.NumberReplacer,
        zero_iteration_for_loop.ZeroIterationForLoop,
        *OWN,
    )
}
