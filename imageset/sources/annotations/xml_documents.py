"""XML documents from strangers, read element by element; a DOCTYPE, which may hold entities, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from imageset.exceptions import UserError

_BLOCK_BYTES = 1 << 16
_MAX_LEVELS = 32  # of elements in one another; the formats have 6


def read_root_tag(path: Path) -> str:
    """Return the tag of the outermost element.

    Raises:
        UserError: the file cannot be read, is no XML, or has a DOCTYPE.
    """
    for root, _ in _iter_elements(path):
        return root
    raise UserError(f"{path}: holds no XML element; export it again")


def iter_children(path: Path) -> Iterator[Element]:
    """Yield the elements directly below the outermost one, each when it is complete.

    Raises:
        UserError: the file cannot be read, is no XML, or has a DOCTYPE.
    """
    for _, element in _iter_elements(path):
        if element is not None:
            yield element


class _Refused(Exception):
    pass


class _Handler:
    """The events of one document: the tag of its outermost element, and the elements below it as they end."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.complete: list[Element] = []
        self._level = 0
        self._builder = TreeBuilder()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._level += 1
        if self._level > _MAX_LEVELS:
            raise _Refused("elements are nested too deeply")
        if self._level == 1:
            self.root = tag
        else:
            self._builder.start(tag, attributes)

    def end(self, tag: str) -> None:
        self._level -= 1
        if self._level:
            self._builder.end(tag)
        if self._level == 1:
            self.complete.append(self._builder.close())
            self._builder = TreeBuilder()

    def add_text(self, text: str) -> None:
        if self._level > 1:
            self._builder.data(text)

    def refuse_doctype(self, *_: object) -> None:
        raise _Refused("a DOCTYPE, which may define entities, is not read; remove the line <!DOCTYPE ...>")


def _iter_elements(path: Path) -> Iterator[tuple[str, Element | None]]:
    """Yield (tag of the outermost element, None) once, then (tag, element) for each element directly below."""
    handler, parser = _Handler(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = handler.start, handler.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = handler.add_text, handler.refuse_doctype
    is_begun = False
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(_BLOCK_BYTES)
                parser.Parse(block, not block)
                if not is_begun and handler.root is not None:
                    is_begun = True
                    yield handler.root, None
                for element in handler.complete:
                    yield handler.root or "", element
                handler.complete.clear()
                if not block:
                    return
    except _Refused as error:
        raise UserError(f"{path}: line {parser.CurrentLineNumber}: {error}") from None
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not readable as XML: {error}; export it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
