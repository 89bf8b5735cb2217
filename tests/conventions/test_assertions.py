"""Assertions that hold whatever the code does, found in the text of the tests."""

import ast
from collections.abc import Iterator

import pytest

from tests.helpers.project import ROOT

TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
ALWAYS_TRUE = (ast.Lambda, ast.GeneratorExp)  # and what is never empty
LAZY = ("map", "filter", "zip", "iter", "reversed", "enumerate")
CHECKS = ("raises", "fail", "warns", "validate", "load_state_dict", "raise_for_status")
# Tests of code that raises where it is wrong.
WITHOUT_ASSERTION = {
    "test_where_nobody_else_reports_to_nothing_is_waited_for",  # the server that would be asked does not exist
    "test_other_outputs_of_the_same_folder_do_not_wait",  # a lock that waits calls pytest.fail
}


def is_always_true(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(not isinstance(one, ast.Starred) for one in node.elts)
    if isinstance(node, ast.Dict):
        return any(key is not None for key in node.keys)  # None: unpacked
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in LAZY
    return isinstance(node, ALWAYS_TRUE)


def iter_conditions(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions whose truth an assertion asks for, and those that are joined by and, or, not."""
    yield node
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from iter_conditions(value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from iter_conditions(node.operand)


def get_name(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def has_call(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Call) for one in ast.walk(node))


def explain_weakness(node: ast.expr) -> str | None:
    """Why a condition says little; None if it may be false for a reason that matters."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return "`or` lets one of two things be wrong; ask for the one that is right in this case"
    if is_always_true(node):
        return "this is always true"
    if isinstance(node, ast.Compare):
        operator, right = node.ops[0], node.comparators[0]
        if ast.dump(node.left) == ast.dump(right) and not has_call(node):
            return "compared with itself"
        if (
            ast.unparse(node.left).startswith("len(")
            and isinstance(operator, ast.GtE)
            and ast.unparse(right) == "0"
        ):
            return "no length is below 0"
        if isinstance(operator, ast.In) and isinstance(node.left, ast.Constant) and node.left.value in ("", b""):
            return "the empty text is in every text"
    return None


def find_weak_lines(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, why) of each assertion and each `pytest.raises` that holds whatever the code does."""
    for node in tree.body:
        if isinstance(node, ast.Expr | ast.Assign) and "pytest.importorskip(" in ast.unparse(node.value):
            yield node.lineno, "tests of a module that is skipped as a whole are not counted"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield from ((node.lineno, why) for one in iter_conditions(node.test) if (why := explain_weakness(one)))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare):
            yield node.lineno, "a comparison that nothing asserts"
        elif isinstance(node, ast.Call) and get_name(node) == "raises":
            names = {ast.unparse(one) for argument in node.args for one in ast.walk(argument)}
            if names & {"Exception", "BaseException"} and not any(key.arg == "match" for key in node.keywords):
                yield node.lineno, "any error passes, as that of a typing mistake"
        elif isinstance(node, ast.Call) and any(key.arg == "allow_module_level" for key in node.keywords):
            yield node.lineno, "tests of a module that is skipped as a whole are not counted"


def has_check(node: ast.AST, helpers: set[str]) -> bool:
    for one in ast.walk(node):
        if isinstance(one, ast.Assert):
            return True
        if isinstance(one, ast.Call):
            name = get_name(one)
            if name in CHECKS or name in helpers or name.startswith(("assert_", "check_")):
                return True
    return False


def find_helpers(trees: list[ast.Module]) -> set[str]:
    """The names of the functions of tests that assert something, or call one that does."""
    functions = [one for tree in trees for one in ast.walk(tree) if isinstance(one, Function)]
    found: set[str] = set()
    while new := {one.name for one in functions if one.name not in found and has_check(one, found)}:
        found |= new
    return found


def iter_tests(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    yield from (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"))


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in TEST_FILES}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("assert a == 1 or b", "`or` lets"),
        ("assert x and not (a or b)", "`or` lets"),
        ("assert (a, 'message')", "always true"),
        ("assert (one for one in a)", "always true"),
        ("assert map(f, a)", "always true"),
        ("assert a.b == a.b", "with itself"),
        ("assert len(a) >= 0", "below 0"),
        ("assert '' in a", "empty text"),
        ("a == b", "nothing asserts"),
        ("with pytest.raises(Exception):\n    f()", "any error"),
        ("with pytest.raises((OSError, Exception)):\n    f()", "any error"),
        ("pytest.skip('x', allow_module_level=True)", "not counted"),
        ("torch = pytest.importorskip('torch')", "not counted"),
    ],
)
def test_an_assertion_that_cannot_fail_is_found(text, why):
    ((line, found),) = find_weak_lines(ast.parse(text))
    assert line == 1 and why in found


@pytest.mark.parametrize(
    "text",
    [
        "assert a == b", "assert all(a or b for a, b in c)", "assert f(1) == f(1)", "assert (a or b) in c",
        "assert [one for one in a]", "assert not [*a]", "a = b == c",
        "with pytest.raises(UserError): f()", "with pytest.raises(Exception, match='x'): f()",
    ],
)  # fmt: skip
def test_an_assertion_that_can_fail_is_not(text):
    assert list(find_weak_lines(ast.parse(text))) == []


def test_no_assertion_holds_whatever_the_code_does(trees):
    found = [f"{path}:{line}: {why}" for path, tree in trees.items() for line, why in find_weak_lines(tree)]
    assert len(trees) > 250 and found == []


def test_every_test_asserts_something(trees):
    helpers = find_helpers(list(trees.values()))
    tests = [(path, one) for path, tree in trees.items() for one in iter_tests(tree)]
    without = {one.name: path for path, one in tests if not has_check(one, helpers)}
    assert len(tests) > 1500 and without.keys() == WITHOUT_ASSERTION
