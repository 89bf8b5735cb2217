"""The list of forgotten pictures, data/forgotten.txt: one image_id a line. git keeps it, and ingest reads it.

It lies outside of data/raw, so that it stays whatever version or source of the pictures is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.raw.label_log import IMAGE_ID
from imageset.utils.atomic_write import write_text

FORGOTTEN = Path("data/forgotten.txt")


def read_forgotten(project: Project) -> frozenset[str]:
    """Return the image_ids of all forgotten pictures.

    Raises:
        UserError: a line is no image_id.
    """
    path = project / FORGOTTEN
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return frozenset()
    except UnicodeDecodeError:
        lines = ["?"]
    for number, line in enumerate(lines, start=1):
        if not IMAGE_ID.fullmatch(line):
            raise UserError(
                f"{path}: line {number} is not an image_id (64 hexadecimal digits); restore the file from git, "
                "or take the line out"
            )
    return frozenset(lines)


def add_forgotten(project: Project, image_ids: Iterable[str]) -> None:
    """Add pictures to the list."""
    known = read_forgotten(project)
    if added := set(image_ids) - known:
        write_text(project / FORGOTTEN, "".join(f"{image_id}\n" for image_id in sorted(known | added)))
