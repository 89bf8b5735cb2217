"""JSON documents from strangers: each value is looked at before it is used, and its place named if it is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageset.exceptions import UserError
from imageset.rejections import escape_control_characters

MAX_DOCUMENT_BYTES = 1_000_000_000
# Parts of annotations that no label is read from; they are most of a large file.
_UNUSED_KEYS = ("segmentation", "bbox", "keypoints", "rle", "mask", "points")
_KIND_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null",
               int: "a number", float: "a number"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A value of a JSON document.

    Attributes:
        data: the value.
        path: the document.
        place: where it is in the document: "annotations[3].category_id"; "" is the whole.
    """

    data: Any
    path: Path
    place: str = ""

    def fail(self, text: str) -> UserError:
        """Return the error for this value; `text` says what is wrong and what to do."""
        place = f" {escape_control_characters(self.place)}:" if self.place else ""
        return UserError(f"{self.path}:{place} {text}")

    def get(self, key: str) -> JsonValue:
        """Return the value of a key; its `data` is None if there is none."""
        fields = self.require_kind(dict)
        return JsonValue(fields.get(key), self.path, f"{self.place}.{key}" if self.place else key)

    def require(self, key: str) -> JsonValue:
        """Return the value of a key.

        Raises:
            UserError: there is none.
        """
        value = self.get(key)
        if value.data is None:
            raise self.fail(f"'{key}' is missing; export the file again")
        return value

    def iter_items(self) -> Iterator[JsonValue]:
        """Yield the items of a list."""
        for number, item in enumerate(self.require_kind(list)):
            yield JsonValue(item, self.path, f"{self.place}[{number}]")

    def get_item(self, number: int) -> JsonValue:
        """Return an item of a list."""
        return JsonValue(self.require_kind(list)[number], self.path, f"{self.place}[{number}]")

    def to_text(self) -> str:
        """Return a text.

        Raises:
            UserError: it is none, or empty.
        """
        text = self.require_kind(str)
        if not text.strip():
            raise self.fail("is empty; export the file again")
        return str(text)

    def to_name(self) -> str:
        """Return a text, or a whole number as text."""
        return str(self.data) if self.is_whole else self.to_text()

    def to_key(self) -> str | int:
        """Return an identifier: a text, or a whole number."""
        if not self.is_whole and not isinstance(self.data, str):
            raise self.fail(f"must be a number or a text, not {self._describe()}")
        return self.data if isinstance(self.data, str) else int(self.data)

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole number."""
        if isinstance(self.data, float):
            return math.isfinite(self.data) and self.data == int(self.data)
        return isinstance(self.data, int) and not isinstance(self.data, bool)

    def require_kind(self, kind: type) -> Any:
        """Return the value.

        Raises:
            UserError: it is of another kind.
        """
        if not isinstance(self.data, kind):
            raise self.fail(f"must be {_KIND_NAMES[kind]}, not {self._describe()}")
        return self.data

    def _describe(self) -> str:
        if isinstance(self.data, float) and not math.isfinite(self.data):
            return str(self.data)
        return _KIND_NAMES.get(type(self.data), "something else")


def read_json(path: Path) -> JsonValue:
    """Read a JSON document without the shapes of its annotations.

    Raises:
        UserError: it cannot be read, is no JSON, or is too large.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_DOCUMENT_BYTES:
            limit = MAX_DOCUMENT_BYTES // 1_000_000
            raise UserError(f"{path}: a file of {num_bytes // 1_000_000:,} MB; at most {limit:,} MB are read: "
                            "split it, or give a table of paths and labels")  # fmt: skip
        return JsonValue(json.loads(path.read_bytes(), object_hook=_drop_shapes), path)
    except RecursionError:
        raise UserError(f"{path}: not readable as JSON: nested too deeply; export it again") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not readable as JSON: {error}; export it again") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not readable as JSON: {' '.join(str(error).split())}; export it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _drop_shapes(fields: dict[str, Any]) -> dict[str, Any]:
    for key in _UNUSED_KEYS:
        fields.pop(key, None)
    return fields
