"""Documents of annotations as a source: COCO, CVAT, FiftyOne, Label Studio, Pascal VOC and YOLO.

A picture has the labels of all its boxes, tags or choices; if none has more than one, the source is single-label.
Pictures without any are passed over and counted.

The pictures are looked for below the document's folder, or below the folder above it if that is called annotations
or labels; `?root=FOLDER`, relative to the document's own, names another one. Their paths are repaired as those of
tables (imageset.sources.tables.image_paths); no file outside that folder is read. `?label=NAME` names the question
of a Label Studio export that gives the labels.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

from imageset.exceptions import UserError
from imageset.labels import count_labels, join_labels
from imageset.rejections import Rejected, escape_control_characters
from imageset.sources.annotations.annotation import Annotation, AnnotationSet
from imageset.sources.annotations.reader import DOCUMENT_FOLDERS, is_document_name, locate, read_document
from imageset.sources.base import SourceImage, describe_source, slugify
from imageset.sources.tables.image_paths import (
    ENDING,
    ImageFolder,
    ImagePaths,
    LocalFolder,
    PathSurvey,
    are_splits,
    choose_folder,
    guess_split_of_image,
)
from imageset.utils.text import format_count, suggest_name

QUERY_KEYS = ("root", "ending", "label")
_NUM_PATHS_COMPARED = 200


def is_document(spec: str) -> bool:
    """Return whether a source is a document of annotations, perhaps with options after a question mark."""
    path = Path(spec.partition("?")[0]).expanduser()
    return is_document_name(path.name) and path.is_file()


def open_document(spec: str, *, require_classes: bool = True) -> AnnotatedSource:
    """Open "instances.json" or "export.xml?root=..." as a source."""
    text, _, query = spec.partition("?")
    path = Path(text).expanduser()
    return open_documents(
        [path], label=text, name=slugify(path.stem), query=query, require_classes=require_classes
    )


def open_documents(
    files: Sequence[Path],
    *,
    label: str,
    name: str,
    query: str = "",
    require_classes: bool = True,
    folder: ImageFolder | None = None,
) -> AnnotatedSource:
    """Open documents, one or one for each split, as a source.

    Args:
        files: the documents.
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        query: the options.
        require_classes: raise UserError if nothing can be learned from the source.
        folder: the folder of the pictures; None: it is on this machine.
    """
    options = _parse_options(label, query)
    root = options.get("root", "")
    sets = [read_document(file, options.get("label")) for file in files]
    tops = [file.parent / Path(root).expanduser() if root else find_base(file) for file in files]
    if folder is None and (missing := [top for top in tops if not top.is_dir()]):
        raise UserError(
            f"{label}: ?root={root}: no such folder in {missing[0].parent}; root is a folder relative to the "
            "document's own, or an absolute path"
        )
    common = Path(os.path.commonpath([top.absolute() for top in tops]))
    placed = [
        locate(entry, file.as_posix(), "" if folder else _relate(top.absolute(), common), len(files))
        for entry, file, top in zip(sets, files, tops, strict=True)
    ]
    return AnnotatedSource(
        placed,
        folder or LocalFolder(common),
        label=label,
        name=name,
        note=", ".join(dict.fromkeys(entry.format for entry in sets)),
        ending=options.get("ending", ""),
        is_root_given=bool(root),
        require_classes=require_classes,
    )


def find_base(document: Path) -> Path:
    """Return the folder below which the pictures of a document are looked for."""
    parent = document.parent
    return parent.parent if parent.absolute().name.lower() in DOCUMENT_FOLDERS else parent


def _relate(folder: Path, common: Path) -> str:
    return "" if folder == common else folder.relative_to(common).as_posix()


def _parse_options(label: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key, value in options.items():
        if key not in QUERY_KEYS:
            raise UserError(
                f"{label}: unknown option '{key}' after the question mark; {suggest_name(key, QUERY_KEYS)}"
            )
        if not value:
            raise UserError(f"{label}: the option {key} has no value; give root=FOLDER, ending=.png or label=NAME")
    return options


class _LabelledPicture(NamedTuple):
    path: str
    labels: tuple[str, ...]
    split: str | None
    is_answered: bool


class AnnotatedSource:
    """Pictures and their labels from documents of annotations.

    Args:
        sets: the annotations of each document.
        folder: the folder of the pictures.
        label: name of the source in messages.
        name: slug that becomes the dataset's name.
        note: what the documents are, for the description of the source.
        ending: an ending that is added to paths without one.
        is_root_given: whether the user named the folder of the pictures.
        num_pictures: number of pictures in the folder, if those that no document names are to be counted.
        require_classes: raise UserError if nothing can be learned from the source.
    """

    kind = "annotations"
    warnings: Sequence[str] = ()

    def __init__(
        self,
        sets: Sequence[AnnotationSet],
        folder: ImageFolder,
        *,
        label: str,
        name: str,
        note: str,
        ending: str = "",
        is_root_given: bool = False,
        num_pictures: int | None = None,
        require_classes: bool = True,
    ) -> None:
        self.label, self.name, self._note = label, name, note
        self.passed_over: Counter[str] = Counter()
        ending = f".{ending}" if ending and not ending.startswith(".") else ending
        self._paths = ImagePaths(folder, ending, is_root_given=is_root_given)
        self._basis = " and ".join(dict.fromkeys(entry.basis for entry in sets))
        self._notes = tuple(dict.fromkeys(note for entry in sets for note in entry.notes))
        found = self._merge(picture for entry in sets for picture in self._iter_pictures(entry, folder))
        found = _add_splits_of_folders(found)
        num_several = sum(len(picture.labels) > 1 for picture in found)
        self.multi_label = num_several > 0
        self._pictures = [picture for picture in found if self._is_wanted(picture)]
        self._say_labels(num_several)
        usual = (ENDING,) if not all(entry.has_endings for entry in sets) else ()
        self._survey = PathSurvey(lambda: ((self._paths, picture.path) for picture in self._pictures), usual)
        self.splits = Counter(picture.split for picture in self._pictures if picture.split)
        self.classes = count_labels(map(self._format_labels, self._pictures), self.multi_label)
        if num_pictures is not None:
            named = {file.name for picture in found if (file := self._paths.find(picture.path))}
            if num := max(0, num_pictures - len(named)):
                self.passed_over["pictures that no annotation names"] = num
        self.problem = self._find_problem()
        if require_classes and self.problem:
            raise UserError(self.problem)

    def _iter_pictures(self, entry: AnnotationSet, folder: ImageFolder) -> Iterator[_LabelledPicture]:
        """Yield the pictures of a document with the paths at which they exist."""
        named = [annotation for annotation in entry.annotations if annotation.picture is not None]
        if len(named) < len(entry.annotations):
            self.passed_over["tasks without a picture"] += len(entry.annotations) - len(named)
        step = max(1, len(named) // _NUM_PATHS_COMPARED)
        sample = [annotation.picture or "" for annotation in named[::step]]
        own, chosen = entry.folder, entry.folder
        if not all(folder.exists(posixpath.join(own, path)) for path in sample):
            chosen = choose_folder(self._paths.listing, sample, own, entry.split)
        for annotation in named:
            path = self._locate(annotation, chosen, folder)
            yield _LabelledPicture(
                path, annotation.labels, annotation.split or entry.split, annotation.is_answered
            )

    def _locate(self, annotation: Annotation, chosen: str, folder: ImageFolder) -> str:
        """Return the first place of a picture at which there is a file; else the first."""
        names = (annotation.picture or "", *annotation.other_paths)
        places = list(dict.fromkeys(posixpath.join(start, name) for name in names for start in (chosen, "")))
        if len(places) == 1 or folder.exists(places[0]):
            return places[0]
        exact = (place for place in places[1:] if folder.exists(place))
        return next(exact, None) or next((place for place in places if self._paths.find(place)), places[0])

    def _merge(self, pictures: Iterator[_LabelledPicture]) -> list[_LabelledPicture]:
        """Return one entry a picture; those on which annotators disagree are passed over."""
        by_path: dict[str, _LabelledPicture] = {}
        disputed: set[str] = set()
        for picture in pictures:
            known = by_path.setdefault(picture.path, picture)
            if not known.is_answered:
                by_path[picture.path] = picture
            elif picture.is_answered and picture.labels != known.labels:
                disputed.add(picture.path)
        if disputed:
            self.passed_over["pictures on which annotators disagree"] = len(disputed)
        return [picture for path, picture in by_path.items() if path not in disputed]

    def _is_wanted(self, picture: _LabelledPicture) -> bool:
        if picture.labels or (self.multi_label and picture.is_answered):
            return True
        self.passed_over[f"pictures without {self._basis}"] += 1
        return False

    def _say_labels(self, num_several: int) -> None:
        origin = f"from its {self._basis}"
        if self.multi_label:
            verb = "has" if num_several == 1 else "have"
            kind = f"several labels a picture, {origin} ({num_several:,} {verb} more than one)"
        else:
            kind = f"one label a picture, {origin}"
        self._labels_note = kind

    def __iter__(self) -> Iterator[SourceImage]:
        for picture in self._pictures:
            found = self._paths.find(picture.path)
            read = (
                partial(self._paths.read, found.name)
                if found
                else partial(_raise_missing, self._paths, picture.path)
            )
            uri = found.name if found else picture.path
            yield SourceImage(uri, self._format_labels(picture), None, picture.split, read)

    def __len__(self) -> int:
        return len(self._pictures)

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        notes = [self._note, self._labels_note, *self._notes, self._survey.describe()]
        return describe_source(self, self.label, "; ".join(filter(None, notes)))

    @property
    def num_found(self) -> int:
        """Number of labelled pictures whose file is there."""
        return self._survey.num_paths - self._survey.num_missing

    def _format_labels(self, picture: _LabelledPicture) -> str:
        if not self.multi_label:
            return picture.labels[0]
        try:
            return join_labels(picture.labels)
        except UserError as error:
            raise UserError(f"{self.label}: {picture.path}: {error}") from None

    def _find_problem(self) -> str | None:
        if not self._pictures:
            return f"{self.label}: no picture has {self._basis}; label some of them, and export again"
        if self._survey.num_missing == self._survey.num_paths:
            return f"{self.label}: none of its pictures is there, e.g. {self._survey.missing_example}"
        if len({picture.labels for picture in self._pictures}) < 2:
            labels = ", ".join(map(escape_control_characters, self._pictures[0].labels))
            return (
                f"{self.label}: all {format_count(len(self), 'labelled picture')} have the label '{labels}'; at "
                "least two classes are needed to learn a difference"
            )
        return None


def _add_splits_of_folders(pictures: list[_LabelledPicture]) -> list[_LabelledPicture]:
    """Return the pictures with the splits of their folders, if the documents give none and the folders do."""
    splits = [guess_split_of_image(picture.path) for picture in pictures]
    if any(picture.split for picture in pictures) or not are_splits(splits):
        return pictures
    return [picture._replace(split=split) for picture, split in zip(pictures, splits, strict=True)]


def _raise_missing(paths: ImagePaths, name: str) -> bytes:
    raise Rejected("unreadable", paths.explain(name))
