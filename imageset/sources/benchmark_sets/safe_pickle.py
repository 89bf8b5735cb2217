"""A reader for CIFAR's Python files, which are pickles, without unpickling.

A pickle is a program for a small machine, and Python's own machine calls every function that the program names.
This reader interprets the same opcodes (from pickletools) and can build dict, list, tuple, str, bytes, numbers,
None and arrays of plain numbers. It knows three functions (numpy's array, numpy's dtype, and the codec that Python
3 writes bytes with), does their work itself, and calls nothing that a pickle names. Anything else is an error.
"""

from __future__ import annotations

import pickletools
from typing import Any

import numpy as np


class UnsafePickle(ValueError):
    """The pickle is damaged, or is more than plain data."""


class _PendingArray:
    """An array under construction: numpy's pickles create an empty array and set its state afterwards."""

    value: np.ndarray | None = None


class _PendingDtype:
    def __init__(self, name: str) -> None:
        self.name = name


_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE = "reconstruct", "ndarray", "dtype", "encode"
_ALLOWED_GLOBALS = {
    "numpy.core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
}
_ALLOWED_DTYPES = frozenset({"u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "b1"})
_PUSH = frozenset(
    {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT"}
    | {"BINUNICODE", "UNICODE", "BINBYTES", "SHORT_BINBYTES"}
)
_PUSH_TEXT = frozenset(["BINSTRING", "SHORT_BINSTRING", "STRING"])
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def read_plain_pickle(data: bytes) -> dict[str, Any]:
    """Read the dict in a pickle of protocol 2 or below: arrays, lists and plain values.

    The strings of Python 2 become bytes.

    Raises:
        UnsafePickle: the pickle is damaged, or is more than plain data.
    """
    machine = _PickleMachine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return _collect_result(machine.pop())
            machine.execute(opcode.name, argument)
    except UnsafePickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UnsafePickle(f"damaged: {error}") from None
    raise UnsafePickle("damaged: it ends too early")


class _PickleMachine:
    """The machine that a pickle is a program for.

    Attributes:
        stack: the values since the last mark.
        below: the stacks before each mark.
        memo: stored values by number.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Remove and return the top of the stack."""
        return self.stack.pop()

    def execute(self, name: str, argument: Any) -> None:
        """Execute one opcode.

        Raises:
            UnsafePickle: plain data does not need the opcode.
        """
        stack = self.stack
        if name in _PUSH:
            stack.append(argument)
        elif name in _PUSH_TEXT:
            stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(_resolve_global(argument))
        elif name != "PROTO":
            self._build(name)

    def _build(self, name: str) -> None:
        match name:
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                num = int(name[-1])
                self.stack[-num:] = [tuple(self.stack[-num:])]
            case "TUPLE" | "LIST" | "DICT":
                items = self._pop_since_mark()  # this replaces self.stack
                self.stack.append(
                    tuple(items) if name == "TUPLE" else items if name == "LIST" else _build_dict(items)
                )
            case "APPEND" | "APPENDS":
                items = self._pop_since_mark() if name == "APPENDS" else [self.stack.pop()]
                _expect_type(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop_since_mark() if name == "SETITEMS" else [self.stack.pop(-2), self.stack.pop()]
                _expect_type(self.stack[-1], dict).update(_build_dict(items))
            case "REDUCE":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(_call_allowed(function, arguments))
            case "BUILD":
                state = self.stack.pop()
                _set_state(self.stack[-1], state)
            case _:
                raise UnsafePickle(f"it uses the opcode {name}, which plain data does not need")

    def _pop_since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items


def _resolve_global(name: str) -> str:
    if name not in _ALLOWED_GLOBALS:
        raise UnsafePickle(f"it names {name.replace(' ', '.')}, which is not plain data; none of it was executed")
    return f"function {_ALLOWED_GLOBALS[name]}"


def _call_allowed(function: Any, arguments: Any) -> Any:
    if function == f"function {_RECONSTRUCT}":
        return _PendingArray()
    if function == f"function {_DTYPE}" and _to_text(arguments[0]).lstrip("<>|=") in _ALLOWED_DTYPES:
        return _PendingDtype(_to_text(arguments[0]).lstrip("<>|="))
    if function == f"function {_ENCODE}" and isinstance(arguments[0], str):
        return arguments[0].encode("latin-1")
    raise UnsafePickle(f"it calls {function}, which is not plain data")


def _set_state(pending: Any, state: Any) -> None:
    """Set the pickled state of an array or a dtype."""
    if isinstance(pending, _PendingDtype):
        order = _to_text(state[1])
        pending.name = ("<" if order in "|=" else order) + pending.name
    elif isinstance(pending, _PendingArray):
        _, shape, dtype, is_fortran, data = state
        values = np.frombuffer(_expect_type(data, bytes), np.dtype(_expect_type(dtype, _PendingDtype).name))
        pending.value = values.reshape(tuple(map(int, shape)), order="F" if is_fortran else "C")
    else:
        raise UnsafePickle("it sets the state of a value that is not plain data")


def _collect_result(value: Any) -> dict[str, Any]:
    """Return the dict with its arrays; deeper nesting, which could be endless, is an error."""
    return {key: _check_plain(item) for key, item in _expect_type(value, dict).items()}


def _check_plain(value: Any) -> Any:
    if isinstance(value, _PendingArray):
        return value.value
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, (str, bytes, int, float, type(None))):
            raise UnsafePickle(f"it holds a {type(item).__name__} instead of numbers and strings")
    return value


def _build_dict(items: list[Any]) -> dict[str, Any]:
    return dict(zip(map(_to_text, items[::2]), items[1::2], strict=True))


def _to_text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _expect_type(value, str)


def _expect_type(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise UnsafePickle(f"damaged: {type(value).__name__} instead of {kind.__name__}")
    return value
