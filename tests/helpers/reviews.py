"""A table of reviewed predictions, as `convoy predict --review` writes it and a person fills it in."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from tests.helpers.images import encode_noise

NEW = encode_noise(900)


def id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_review(folder: Path) -> Path:
    """A review of a new picture and one of the project's, which both are bees."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "0.png").write_bytes(NEW)
    with (folder / "review.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "guess", "image_id"])
        table.writerow(["pictures/0.png", "bee", "ant", id_of(NEW)])
        table.writerow(["pictures/1.png", "bee", "ant", id_of(encode_noise(0))])
    return folder / "review.csv"
