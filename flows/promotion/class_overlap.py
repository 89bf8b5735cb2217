"""The classes that a model and the dataset have in common, and those that people have renamed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.orchestration import local_databases
from flows.project.paths import MANIFEST, NORMALIZED, RAW
from flows.project.project import Project
from flows.promotion import ledger
from imageset.exceptions import UserError

if TYPE_CHECKING:
    from imageset.raw.label_log import LabelLog

NUM_NAMED = 5  # classes of each kind in a message
CLASSES_KEY = "classes"  # in a decision of the ledger: names of the version's classes


@dataclass(frozen=True)
class ClassOverlap:
    """The classes of a dataset beside those of a model, matched by name.

    Attributes:
        shared: classes of both, by their names in the dataset and in its order.
        added: classes that only the dataset has.
        removed: classes that only the model has.
        renamed: name in the dataset by the name that the model knows the class by.
    """

    shared: tuple[str, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether both have the same classes; a renamed class is the same."""
        return not self.added and not self.removed

    def is_comparable(self, multi_label: bool) -> bool:
        """Return whether two models can be compared: with one label a picture, two classes are needed."""
        return len(self.shared) >= (1 if multi_label else 2)

    def describe(self) -> str:
        """Return the differences in words: "it does not know cow; dog is no class any more"; empty without any."""
        renamed = [f"{old} is called {new}" for old, new in self.renamed.items()]
        parts = [
            f"it does not know {_join(self.added)}" if self.added else "",
            f"{_join(self.removed)} {'is no class' if len(self.removed) == 1 else 'are no classes'} any more"
            if self.removed
            else "",
            f"{_join(renamed)} now" if renamed else "",
        ]
        return "; ".join(filter(None, parts))


def compare_classes(
    dataset: Sequence[str], model: Collection[str], renamed: Mapping[str, str] | None = None
) -> ClassOverlap:
    """Compare the classes of a dataset with those of a model.

    Args:
        dataset: names of the dataset's classes.
        model: names of the model's classes.
        renamed: of `find_renamed_classes`.
    """
    renamed = dict(renamed or {})
    known = {renamed.get(name, name) for name in model}
    return ClassOverlap(
        shared=tuple(name for name in dataset if name in known),
        added=tuple(name for name in dataset if name not in known),
        removed=tuple(name for name in sorted(model) if renamed.get(name, name) not in dataset),
        renamed=renamed,
    )


def find_renamed_classes(log: LabelLog, dataset: Collection[str], model: Collection[str]) -> dict[str, str]:
    """Return the classes that people have renamed by labels: the new name by the old one.

    That is a class of the model that the dataset does not have any more, and whose pictures in the label log have
    all got one label: a class of the dataset that the model does not know. Two classes that became one are no
    renaming.

    Args:
        log: the label log; it knows what people corrected, but not why a source has other names than before.
        dataset: names of the dataset's classes.
        model: names of the model's classes.
    """
    targets: dict[str, set[str | None]] = {}
    for _, labels in log.iter_images():
        old = labels.previous
        if old is not None and old in model and old not in dataset:
            targets.setdefault(old, set()).add(labels.find_label())
    found = {old: next(iter(new)) for old, new in sorted(targets.items()) if len(new) == 1}
    names = list(found.values())
    return {
        old: new
        for old, new in found.items()
        if new is not None and new in dataset and new not in model and names.count(new) == 1
    }


def describe_changed_classes(project: Project, name: str, number: int, classes: Collection[str]) -> str:
    """Return a line if a version's classes are not those of the project's dataset any more, else "".

    A dataset that cannot be read, or of another name, is not compared.

    Args:
        project: the project.
        name: of the registered model.
        number: of the version.
        classes: names of its classes.
    """
    from imageset.raw.label_log import read_label_log

    try:
        manifest = json.loads((project / MANIFEST).read_text(encoding="utf-8"))
        dataset, is_own = list(manifest["classes"]), manifest["name"] == name
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if not is_own or set(dataset) == set(classes):
        return ""
    renamed: dict[str, str] = {}
    with suppress(UserError):  # a damaged log is reported elsewhere; this line is for information
        if not project.is_multi_label():
            renamed = find_renamed_classes(read_label_log(project / RAW), dataset, classes)
    difference = compare_classes(dataset, classes, renamed).describe()
    return (
        f"{name} version {number} has other classes than {NORMALIZED}: {difference}; "
        "`convoy run` trains on the classes of today and promotes"
    )


def find_version_classes(
    entries: list[ledger.LedgerEntry], name: str, number: int, database: Path | None
) -> list[str] | None:
    """Return the classes of a version: from the ledger, else from its files; None if neither tells.

    Args:
        entries: the ledger; decisions of an earlier Convoy do not name the classes.
        name: of the registered model.
        number: of the version.
        database: MLflow's SQLite file; None: a server.
    """
    decision = ledger.find_decision(entries, name, number) or {}
    if CLASSES_KEY in decision:
        return list(decision[CLASSES_KEY])
    folder = local_databases.find_version_folder(database, name, number) if database is not None else None
    if folder is None:
        return None
    try:
        text = (folder / "artifacts" / "bundle" / "bundle.json").read_text(encoding="utf-8")
        return list(json.loads(text)["info"]["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _join(names: Sequence[str]) -> str:
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more:,} more" if more > 0 else "")
