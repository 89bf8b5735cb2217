"""The journal of `convoy forget`: what is being forgotten, until all of it is done.

.cache/forget/journal.json     the image_ids, when it began, and what was learnt before the tables were gone
.cache/forget/content-N        bytes and pixels of the pictures, for the search at the end

It is written before the first change and removed after the last search. Each step can be taken again, so a command
that was killed is completed by the next one, from its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.project.paths import CACHE
from flows.project.project import Project
from flows.retention.actions import remove_path
from imageset.exceptions import UserError
from imageset.utils.atomic_write import replace_folder

JOURNAL = CACHE / "forget"
JOURNAL_FILE, CONTENT_PREFIX = "journal.json", "content-"


@dataclass(frozen=True)
class Journal:
    """Pictures that are being forgotten.

    Attributes:
        image_ids: SHA-256 of each picture.
        started: ISO 8601.
        folders: versions of data/raw and data/normalized that held one.
        models: the models that learnt from one: {"model", "version", "run"}.
        contents: their bytes, and their pixels in each version.
    """

    image_ids: frozenset[str]
    started: str
    folders: frozenset[str] = frozenset()
    models: tuple[dict[str, Any], ...] = ()
    contents: frozenset[bytes] = field(default=frozenset(), repr=False)

    def merge(self, other: Journal) -> Journal:
        """Return both journals as one."""
        models = {json.dumps(model, sort_keys=True): model for model in (*self.models, *other.models)}
        return Journal(
            self.image_ids | other.image_ids,
            min(self.started, other.started),
            self.folders | other.folders,
            tuple(models.values()),
            self.contents | other.contents,
        )

    def save(self, project: Project) -> None:
        """Write the journal in the place of an earlier one."""
        document = {
            "image_ids": sorted(self.image_ids),
            "started": self.started,
            "folders": sorted(self.folders),
            "models": list(self.models),
        }
        with replace_folder(project / JOURNAL) as folder:
            for number, content in enumerate(sorted(self.contents)):
                (folder / f"{CONTENT_PREFIX}{number}").write_bytes(content)
            (folder / JOURNAL_FILE).write_text(json.dumps(document), encoding="utf-8")


def load_journal(project: Project) -> Journal | None:
    """Return the journal that a command left which was killed; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    _, _, earlier = places = list_journal_folders(project)
    folder = next((place for place in (places[0], earlier) if (place / JOURNAL_FILE).is_file()), places[0])
    try:
        document = json.loads((folder / JOURNAL_FILE).read_text(encoding="utf-8"))
        return Journal(
            frozenset(document["image_ids"]),
            str(document["started"]),
            frozenset(document["folders"]),
            tuple(document["models"]),
            frozenset(path.read_bytes() for path in folder.glob(f"{CONTENT_PREFIX}*")),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}: damaged; remove it, and give `convoy forget` the same pictures again"
        ) from None


def remove_journal(project: Project) -> None:
    """Remove the journal and what processes that were killed left beside it."""
    for path in list_journal_folders(project):
        remove_path(path)


def list_journal_folders(project: Project) -> list[Path]:
    """Return the journal's folder, and those of `replace_folder` beside it."""
    name = JOURNAL.name
    return [project / CACHE / folder for folder in (name, f".{name}.partial", f".{name}.earlier")]


def read_list(path: Path) -> Iterable[str]:
    """Return the image_ids and paths of a file, one a line; blank lines and `#` comments are passed over.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--list {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--list {path}: not a text in UTF-8") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
