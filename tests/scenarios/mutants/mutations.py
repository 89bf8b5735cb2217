"""Mutants of a module: its source with one change, without those that are not worth a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests.scenarios.mutants.operators import OPERATORS, Position


@dataclass(frozen=True)
class Mutant:
    """One changed version of a module.

    Attributes:
        line: the number of the first line that differs.
        before: the lines that differ, as they are in the module, joined without their indentation.
        after: the same lines in the mutant.
        operator: that changed it, a key of OPERATORS.
        source: the mutant's text.
    """

    line: int
    before: str
    after: str
    operator: str
    source: str

    def __str__(self) -> str:
        return f"{self.line}: {self.before}  ->  {self.after}  ({self.operator})"


def list_mutants(source: str, excluded: list[str], only: list[str] | None = None) -> list[Mutant]:
    """Return every mutant of a source that compiles and is not excluded, without doubles, by line.

    Args:
        source: text of a module.
        excluded: kinds of code to leave alone, keys of EXCLUDED.
        only: names at the top level of the module; everything else is left alone.
    """
    tree = ast.parse(source)
    ranges = [found for kind in excluded for found in EXCLUDED[kind](tree, source)]
    ranges += [_get_range(node) for node in tree.body if only and not find_names(node) & set(only)]
    original, mutants = ast.dump(tree), {}
    for name, operator in OPERATORS.items():
        places = (
            (node, *place) for node in ast_nodes(get_ast(source)) for place in operator.mutation_positions(node)
        )
        for occurrence, (node, start, _) in enumerate(places):
            is_separator = (
                node.type == "operator" and node.parent.type == "parameters"
            )  # `/` and `*` of a signature
            if is_separator or any(first <= start < last for first, last in ranges):
                continue
            text = mutate_code(source, OPERATORS[name], occurrence)
            if text is not None and text not in mutants and _differs(original, text):
                mutants[text] = _describe_mutant(source, text, name)
    return sorted(mutants.values(), key=lambda mutant: (mutant.line, mutant.after))


def find_names(node: ast.stmt) -> set[str]:
    """The names that a statement at the top level of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)}


def _differs(original: str, text: str) -> bool:
    """Whether a mutant compiles, and to something else."""
    try:
        return ast.dump(ast.parse(text)) != original
    except SyntaxError:
        return False


def _describe_mutant(source: str, text: str, operator: str) -> Mutant:
    before, after = source.splitlines(), text.splitlines()
    changes = [code for code in SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
               if code[0] != "equal"]  # fmt: skip
    first, last, new_first, new_last = changes[0][1], changes[-1][2], changes[0][3], changes[-1][4]
    return Mutant(first + 1, join_lines(before[first:last]), join_lines(after[new_first:new_last]), operator, text)


def join_lines(lines: list[str]) -> str:
    """Join lines without indentation, comments, and the spaces that Cosmic Ray puts before numbers."""
    text = " ".join(re.sub(r"(^|  )# .*$", "", line).strip() for line in lines)
    return re.sub(r"(?<=[(\[ ]) +", "", text)


def _get_range(node: ast.AST) -> Position:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _find_annotations(tree: ast.Module, source: str) -> Iterator[Position]:
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                yield _get_range(getattr(node, name))


def _find_decorators(tree: ast.Module, source: str) -> Iterator[Position]:
    for node in ast.walk(tree):
        yield from (_get_range(decorator) for decorator in getattr(node, "decorator_list", []))


def _find_log_calls(tree: ast.Module, source: str) -> Iterator[Position]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            root: ast.AST = node.value.func
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in ("logger", "console", "warnings"):
                yield _get_range(node)


def _find_error_messages(tree: ast.Module, source: str) -> Iterator[Position]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from (_get_range(argument) for argument in node.exc.args)


def _find_strict(tree: ast.Module, source: str) -> Iterator[Position]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "strict":
            yield _get_range(node)


def _find_type_checking(tree: ast.Module, source: str) -> Iterator[Position]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield _get_range(node)


def _find_pragma_lines(tree: ast.Module, source: str) -> Iterator[Position]:
    for number, line in enumerate(source.splitlines(), start=1):
        if "# pragma: no" in line:
            yield (number, 0), (number + 1, 0)


EXCLUDED: dict[str, Callable[[ast.Module, str], Iterator[Position]]] = {
    "annotations": _find_annotations,
    "decorators": _find_decorators,
    "log calls": _find_log_calls,
    "error messages": _find_error_messages,
    "strict": _find_strict,
    "type checking": _find_type_checking,
    "pragma lines": _find_pragma_lines,
}
