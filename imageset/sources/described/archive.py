"""Archives whose pictures are described by a table or annotations among their files."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from imageset.exceptions import UserError
from imageset.rejections import Rejected
from imageset.sources.annotations.json_documents import MAX_DOCUMENT_BYTES
from imageset.sources.archive import ArchiveSource, iter_members, read_member
from imageset.sources.base import Source, SourceImage
from imageset.sources.described.contents import DESCRIBING_EXTENSIONS, Contents
from imageset.sources.described.opening import open_described
from imageset.sources.tables.image_paths import RemoteFolder
from imageset.utils.tempdirs import ReclaimedTempDir


class DescribedArchive:
    """The pictures of an archive with their labels from a table or document in it, in the order of the archive.

    Args:
        inner: the same pictures as read through the table or document.
        path: the archive.
        folder: the temporary folder of the tables and documents.
    """

    kind = "archive"

    def __init__(self, inner: Source, path: Path, folder: ReclaimedTempDir) -> None:
        self._inner, self._path, self._folder = inner, path, folder
        self.name, self.multi_label, self.warnings = inner.name, inner.multi_label, inner.warnings
        self.passed_over, self.classes, self.splits = inner.passed_over, inner.classes, inner.splits
        self.problem = inner.problem

    def __iter__(self) -> Iterator[SourceImage]:
        waiting: defaultdict[str, list[SourceImage]] = defaultdict(list)
        for image in self._inner:
            waiting[image.uri].append(image)
        for member in iter_members(self._path, Counter()):
            for image in waiting.pop(posixpath.normpath(member.name), ()):
                yield replace(image, read=partial(read_member, member))
        for images in waiting.values():
            yield from images

    def __len__(self) -> int:
        return len(self._inner)

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        return self._inner.describe()


def open_described_archive(path: Path, source: ArchiveSource) -> Source | str:
    """Open the pictures of an archive through the tables or annotations in it; see `open_described`."""
    folder = ReclaimedTempDir()
    try:
        documents = _unpack_documents(path, Path(folder.name))
        images = [posixpath.normpath(name) for name in source.images]

        def read(name: str) -> bytes:
            raise Rejected("unreadable", "no such file in the archive")

        contents = Contents(str(path), source.name, images, documents,
                            lambda inside: RemoteFolder(read, lambda: images, inside))  # fmt: skip
        found = open_described(contents, source)
        if isinstance(found, str):
            folder.cleanup()
            found = found.replace(folder.name, str(path))
            place = found.find(f"{path}/")
            return found if place < 0 else found.replace(f"{path}/", "") + " (unpack the archive first)"
        return DescribedArchive(found, path, folder)
    except BaseException:
        folder.cleanup()
        raise


def _unpack_documents(path: Path, folder: Path) -> dict[str, Path]:
    documents, num_bytes = {}, 0
    for member in iter_members(path, Counter()):
        name = posixpath.normpath(member.name)
        if posixpath.splitext(name)[1].lower() not in DESCRIBING_EXTENSIONS:
            continue
        try:
            data = read_member(member, MAX_DOCUMENT_BYTES)
        except Rejected as rejected:
            raise UserError(f"{path}: {name}: {rejected.detail}; unpack the archive and give the folder") from None
        num_bytes += len(data)
        if num_bytes > MAX_DOCUMENT_BYTES:
            limit = MAX_DOCUMENT_BYTES // 1_000_000
            raise UserError(
                f"{path}: its tables and annotations are more than {limit:,} MB; unpack it and give the folder"
            )
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        documents[name] = file
    return documents
