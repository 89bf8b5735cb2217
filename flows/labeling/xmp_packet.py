"""Add tags to an XMP packet, and find and replace them later. The bytes that others wrote stay as they are.

Convoy adds text at byte positions that an XML parser finds, and never writes a packet of others anew:

- one rdf:Description at the end of rdf:RDF, with the properties in Convoy's namespace. `convoy:tags` lists the
  keywords that were added, so that a later run replaces these and no others;
- one rdf:li for each tag in dc:subject. Where the packet has no dc:subject, it is in Convoy's rdf:Description.

A keyword that was there before is neither added nor listed. Every result is checked: without what was added, it is
the packet of before, byte for byte.

Sources: XMP Specification Part 1 (ISO 16684-1), 7 for the RDF and 7.3.2 for the packet wrapper; Dublin Core's
dc:subject is an unordered array (8.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, unescape

NAMESPACE = "urn:x-convoy:xmp:1.0#"
_RDF, _DC = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://purl.org/dc/elements/1.1/"
_DESCRIPTION, _ITEM, _SUBJECT = (_RDF, "Description"), (_RDF, "li"), (_DC, "subject")
_CONTAINERS = {(_RDF, "Bag"), (_RDF, "Seq"), (_RDF, "Alt")}
_SEPARATOR = "\x01"  # between the parts of a name; XML allows it nowhere

# The packet of a file that had none. Its toolkit is the program that made it.
EMPTY_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Convoy">\n'
    f' <rdf:RDF xmlns:rdf="{_RDF}">\n </rdf:RDF>\n</x:xmpmeta>\n'
    '<?xpacket end="w"?>'
).encode()
_LEAD = b"\n  "  # before Convoy's rdf:Description
_OPENING = f' xmlns:rdf="{_RDF}" xmlns:dc="{_DC}" xmlns:convoy="{NAMESPACE}">\n'
_LIST = rb"<rdf:Bag>((?:<rdf:li>[^<]*</rdf:li>)*)</rdf:Bag>"
_OWN_DESCRIPTION = re.compile(
    rb'\n  <rdf:Description rdf:about="[^"<]*"' + re.escape(_OPENING.encode())
    + rb"(?:   <dc:subject>" + _LIST + rb"</dc:subject>\n)?"
    + rb"(?:   <convoy:(?!tags|replaced)\w+>[^<]*</convoy:\w+>\n)*"
    + rb"(?:   <convoy:tags>" + _LIST + rb"</convoy:tags>\n)?"
    + rb"(?:   <convoy:replaced>([^<]*)</convoy:replaced>\n)?"
    + rb"  </rdf:Description>"
)  # fmt: skip
# A packet of Convoy 0.2, which merged nothing: all of it is Convoy's.
_EARLIER_PACKET = re.compile(
    re.escape(EMPTY_PACKET[: EMPTY_PACKET.index(b"\n </rdf:RDF>")])
    + rb'\n  <rdf:Description rdf:about="" xmlns:dc="' + re.escape(_DC.encode())
    + rb'"\n    xmlns:convoy="' + re.escape(NAMESPACE.encode()) + rb'">\n'
    + rb"   <dc:subject>" + _LIST + rb"</dc:subject>\n"
    + rb"(?:   <convoy:\w+>[^<]*</convoy:\w+>\n)*  </rdf:Description>"
    + re.escape(EMPTY_PACKET[EMPTY_PACKET.index(b"\n </rdf:RDF>"):])
)  # fmt: skip
_START_TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")


_ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"[^\"]*\"|'[^']*')")  # within a start tag


class PacketError(Exception):
    """Tags cannot be added to the packet; the message completes "has ..."."""


@dataclass(frozen=True)
class Tags:
    """The tags of an image.

    Attributes:
        subjects: the keywords, for dc:subject.
        properties: further text by name, for Convoy's namespace.
    """

    subjects: Sequence[str]
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Element:
    """An element of a packet and its position, in bytes.

    Attributes:
        name: (namespace, local name).
        prefix: of the namespace, with its colon; empty for the default namespace.
        attributes: values by (namespace, local name).
        parent: None for the root.
        start: of the start tag.
        open_end: the end of the start tag.
        close_start: the start of the end tag; of a self-closed element, its end.
        end: the end of the end tag.
        text: character data directly in it.
    """

    name: tuple[str, str]
    prefix: str
    attributes: dict[tuple[str, str], str]
    parent: _Element | None
    start: int
    open_end: int
    close_start: int = 0
    end: int = 0
    text: str = ""

    @property
    def is_self_closed(self) -> bool:
        return self.close_start == self.open_end == self.end


_Edit = tuple[int, int, bytes]  # (start, end, replacement)


def build_packet(tags: Tags) -> bytes:
    """Build the packet of a file that has none."""
    return merge_tags(EMPTY_PACKET, tags)


def merge_tags(packet: bytes, tags: Tags) -> bytes:
    """Return the packet with these tags in place of those that Convoy added before.

    Raises:
        PacketError: the packet is damaged, or in a form that nothing can be added to.
    """
    base = remove_tags(packet)
    document = _Document(base)
    keywords = document.read_keywords()
    added = list(dict.fromkeys(subject for subject in map(_clean, tags.subjects) if subject not in keywords))
    properties = {name: _clean(value) for name, value in tags.properties.items()}
    result = _apply_edits(base, document.plan_additions(added, properties))
    if sorted(_Document(result).read_keywords()) != sorted(keywords + added) or remove_tags(result) != base:
        raise PacketError("XMP in a form that tags cannot be added to")
    return result


def remove_tags(packet: bytes) -> bytes:
    """Return the packet without what Convoy added; if no other program has changed it, as it was before.

    Raises:
        PacketError: the packet is damaged.
    """
    if _EARLIER_PACKET.fullmatch(packet):
        return EMPTY_PACKET
    document = _Document(packet)
    own = _find_own_description(document)
    if own is None:
        return _apply_edits(packet, document.plan_removal(document.read_tags(), keep=None))
    tags = [unescape(text) for text in re.findall(r"<rdf:li>([^<]*)</rdf:li>", (own[2] or b"").decode())]
    if own[3] is not None and (restored := _restore_subject(document, own, tags)) is not None:
        return restored
    edits: list[_Edit] = [(own.start(), own.end(), b"")]
    if own[1] is None:
        edits += document.plan_removal(tags, keep=own)
    return _apply_edits(packet, edits)


def _find_own_description(document: _Document) -> re.Match[bytes] | None:
    """Return the rdf:Description that Convoy added, unless another program has changed it since.

    Groups: the items of its dc:subject, those of convoy:tags, and the text of convoy:replaced.
    """
    starts = {child.start for child in document.list_children(document.rdf)}
    for match in _OWN_DESCRIPTION.finditer(document.packet):
        if match.start() + len(_LEAD) in starts and match[1] in (None, match[2]):
            return match
    return None


def _restore_subject(document: _Document, own: re.Match[bytes], tags: Sequence[str]) -> bytes | None:
    """Return the packet with the dc:subject of before, or None if another program has changed it since."""
    subject = document.find_subject()
    if subject is None:
        return None
    original = unescape(own[3].decode(), {"&#13;": "\r"}).encode()
    current = document.packet[subject.start : subject.end]
    edits: list[_Edit] = [(own.start(), own.end(), b""), (subject.start, subject.end, original)]
    restored = _apply_edits(document.packet, edits)
    try:
        before = _Document(restored)
    except PacketError:
        return None
    old = before.find_subject()
    return restored if old is not None and before.rewrite_subject(old, tags) == current else None


class _Document:
    """A parsed packet.

    Args:
        packet: the bytes of the packet, with or without the xpacket wrapper.

    Attributes:
        elements: in the order of their start tags.
        rdf: the element rdf:RDF.

    Raises:
        PacketError: the packet is damaged, not UTF-8, or declares entities.
    """

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.elements = _parse_elements(packet)
        roots = [element for element in self.elements if element.name == (_RDF, "RDF")]
        if len(roots) != 1 or roots[0].is_self_closed:
            raise PacketError("XMP in a form that tags cannot be added to")
        self.rdf = roots[0]

    def list_children(self, parent: _Element) -> list[_Element]:
        """Return the elements directly in another one."""
        return [element for element in self.elements if element.parent is parent]

    def find_subjects(self) -> list[_Element]:
        """Return all dc:subject that describe the image itself, not a part of it."""
        descriptions = [child for child in self.list_children(self.rdf) if child.name == _DESCRIPTION]
        return [
            element for element in self.elements
            if element.name == _SUBJECT and any(element.parent is description for description in descriptions)
        ]  # fmt: skip

    def find_subject(self) -> _Element | None:
        """Return the first dc:subject, or None."""
        return next(iter(self.find_subjects()), None)

    def list_items(self, subject: _Element) -> list[_Element]:
        """Return the items of an array."""
        return [
            item for container in self.list_children(subject) if container.name in _CONTAINERS
            for item in self.list_children(container) if item.name == _ITEM
        ]  # fmt: skip

    def read_keywords(self) -> list[str]:
        """Return all keywords, of Convoy and of others."""
        keywords: list[str] = []
        for subject in self.find_subjects():
            if self.list_children(subject):
                keywords += [item.text for item in self.list_items(subject)]
            elif subject.text.strip():
                keywords.append(subject.text)
        return keywords

    def read_tags(self) -> list[str]:
        """Return the keywords that convoy:tags lists, however another program has written it."""
        lists = [element for element in self.elements if element.name == (NAMESPACE, "tags")]
        return [item.text for array in lists for item in self.list_items(array)]

    # ---- additions -------------------------------------------------------------------------------------

    def plan_additions(self, added: Sequence[str], properties: Mapping[str, str]) -> list[_Edit]:
        """Return the edits that add keywords and properties."""
        if any(_SUBJECT in child.attributes for child in self.list_children(self.rdf)):
            raise PacketError("XMP with dc:subject as an attribute, which holds no list")
        subject = self.find_subject()
        children = self.list_children(self.rdf)
        position = children[-1].end if children else self.rdf.open_end
        edits: list[_Edit] = []
        replaced: bytes | None = None
        if subject is not None and added:
            items = self.list_items(subject)
            if items:
                edits.append((items[-1].end, items[-1].end, _build_items(added, items[-1].prefix)))
            else:
                replaced = self.packet[subject.start : subject.end]
                edits.append((subject.start, subject.end, self.rewrite_subject(subject, added)))
        with_subject = subject is None and bool(added)
        block = _build_description(self._read_about(), added, properties, with_subject, replaced)
        return [*edits, (position, position, block)]

    def rewrite_subject(self, subject: _Element, added: Sequence[str]) -> bytes:
        """Return a dc:subject without items with keywords in it: an empty array, none at all, or a single text."""
        containers, data = self.list_children(subject), self.packet
        if containers:
            return self._fill_container(subject, containers, added)
        if any(namespace == _RDF for namespace, _ in subject.attributes):
            raise PacketError("XMP in a form that tags cannot be added to")
        prefix = self.rdf.prefix
        text = data[subject.open_end : subject.close_start]
        first = f"<{prefix}li>".encode() + text + f"</{prefix}li>".encode() if subject.text.strip() else text
        bag = f"<{prefix}Bag>".encode() + first + _build_items(added, prefix) + f"</{prefix}Bag>".encode()
        if subject.is_self_closed:
            return _open_tag(data[subject.start : subject.end]) + bag + f"</{subject.prefix}subject>".encode()
        return data[subject.start : subject.open_end] + bag + data[subject.close_start : subject.end]

    def _fill_container(self, subject: _Element, containers: list[_Element], added: Sequence[str]) -> bytes:
        container, data = containers[0], self.packet
        if len(containers) != 1 or container.name not in _CONTAINERS:
            raise PacketError("XMP in a form that tags cannot be added to")
        items = _build_items(added, container.prefix)
        before, after = data[subject.start : container.start], data[container.end : subject.end]
        whole = data[container.start : container.end]
        if container.is_self_closed:
            filled = _open_tag(whole) + items + f"</{container.prefix}{container.name[1]}>".encode()
        else:
            filled = (
                data[container.start : container.close_start] + items + data[container.close_start : container.end]
            )
        return before + filled + after

    def _read_about(self) -> str:
        """Return the image's own name in the packet, which all rdf:Description must share."""
        for child in self.list_children(self.rdf):
            for name in ((_RDF, "about"), ("", "about")):
                if name in child.attributes:
                    return child.attributes[name]
        return ""

    # ---- removal ---------------------------------------------------------------------------------------

    def plan_removal(self, tags: Sequence[str], keep: re.Match[bytes] | None) -> list[_Edit]:
        """Return the edits that remove some keywords, and all properties of Convoy.

        Args:
            tags: the keywords; the last one of each text is removed.
            keep: a part of the packet that is removed as a whole.
        """
        start, end = keep.span() if keep else (0, 0)
        elements = [element for element in self.elements if not start <= element.start < end]
        edits: list[_Edit] = []
        items = [item for subject in self.find_subjects() for item in self.list_items(subject)]
        for text in tags:
            found = [item for item in items if item.text == text]
            edits += [(item.start, item.end, b"") for item in found[-1:]]
        for element in elements:
            if element.name[0] == NAMESPACE and (element.parent is None or element.parent.name[0] != NAMESPACE):
                edits.append((element.start, element.end, b""))
            elif any(namespace == NAMESPACE for namespace, _ in element.attributes):
                edits += self._plan_attribute_removal(element)
        return edits

    def _plan_attribute_removal(self, element: _Element) -> list[_Edit]:
        declared = set(re.findall(rb"xmlns:([^\s=]+)\s*=\s*[\"']" + re.escape(NAMESPACE.encode()), self.packet))
        edits: list[_Edit] = []
        for match in _ATTRIBUTE.finditer(self.packet, element.start, element.open_end):
            prefix, _, local = match[1].partition(b":")
            if prefix in declared and (NAMESPACE, local.decode()) in element.attributes:
                edits.append((*match.span(), b""))
        return edits


# ---- text ------------------------------------------------------------------------------------------------------


def _build_description(
    about: str, added: Sequence[str], properties: Mapping[str, str], with_subject: bool, replaced: bytes | None
) -> bytes:
    """Build Convoy's rdf:Description; `_OWN_DESCRIPTION` matches it."""
    bag = f"<rdf:Bag>{_build_items(added, 'rdf:').decode()}</rdf:Bag>"
    quoted = escape(about, {'"': "&quot;", "\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})
    text = f'<rdf:Description rdf:about="{quoted}"{_OPENING}'
    if with_subject:
        text += f"   <dc:subject>{bag}</dc:subject>\n"
    text += "".join(f"   <convoy:{name}>{escape(value)}</convoy:{name}>\n" for name, value in properties.items())
    if added:
        text += f"   <convoy:tags>{bag}</convoy:tags>\n"
    if replaced is not None:
        text += f"   <convoy:replaced>{escape(replaced.decode(), {chr(13): '&#13;'})}</convoy:replaced>\n"
    return _LEAD + f"{text}  </rdf:Description>".encode()


def _build_items(texts: Sequence[str], prefix: str) -> bytes:
    return "".join(f"<{prefix}li>{escape(text)}</{prefix}li>" for text in texts).encode()


def _open_tag(self_closed: bytes) -> bytes:
    """Return the start tag of a self-closed element."""
    return self_closed[: self_closed.rindex(b"/>")] + b">"


def _clean(text: str) -> str:
    """Return text that XML 1.0 allows: control characters become spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def _apply_edits(data: bytes, edits: Sequence[_Edit]) -> bytes:
    """Return the data with all edits; one within another edit is part of it."""
    parts: list[bytes] = []
    position = 0
    for start, end, replacement in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if start >= position:
            parts += [data[position:start], replacement]
            position = end
    return b"".join([*parts, data[position:]])


# ---- parsing ---------------------------------------------------------------------------------------------------


def _parse_elements(packet: bytes) -> list[_Element]:
    text = packet.rstrip(b"\0")  # some cameras fill up the packet
    if b"\0" in text:
        raise PacketError("XMP that is not UTF-8")
    parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
    parser.namespace_prefixes = True
    parser.buffer_text = True
    builder = _ElementBuilder(packet, parser)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.add_text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.XmlDeclHandler = _check_encoding
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, UnicodeError):
        raise PacketError("damaged XMP") from None
    return builder.elements


class _ElementBuilder:
    """The handlers of the parser, and the elements that they have seen."""

    def __init__(self, packet: bytes, parser: expat.XMLParserType) -> None:
        self.packet, self.parser = packet, parser
        self.elements: list[_Element] = []
        self.open: list[_Element] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        start = self.parser.CurrentByteIndex
        tag = _START_TAG.match(self.packet, start)
        assert tag is not None  # the parser has found it
        namespace, local, prefix = _split_name(name)
        values = {_split_name(each)[:2]: value for each, value in attributes.items()}
        parent = self.open[-1] if self.open else None
        element = _Element((namespace, local), f"{prefix}:" if prefix else "", values, parent, start, tag.end())
        self.elements.append(element)
        self.open.append(element)

    def end(self, name: str) -> None:
        element = self.open.pop()
        if self.packet[element.open_end - 2 : element.open_end] == b"/>":
            element.close_start = element.end = element.open_end
            return
        element.close_start = self.parser.CurrentByteIndex
        element.end = self.packet.index(b">", element.close_start) + 1

    def add_text(self, text: str) -> None:
        self.open[-1].text += text


def _split_name(name: str) -> tuple[str, str, str]:
    """Split a name of the parser into (namespace, local name, prefix)."""
    parts = name.split(_SEPARATOR)
    if len(parts) == 1:
        return "", name, ""
    return parts[0], parts[1], parts[2] if len(parts) > 2 else ""


def _refuse_doctype(*declaration: object) -> None:
    """Refuse a DOCTYPE, which XMP does not have: entities that it declares could grow without bound."""
    raise PacketError("XMP with a DOCTYPE")


def _check_encoding(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
        raise PacketError("XMP that is not UTF-8")
