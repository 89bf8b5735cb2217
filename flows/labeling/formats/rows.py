"""The rows that an export to a labelling tool is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from imageset.exceptions import UserError


class ExportRow(NamedTuple):
    """One picture for a labelling tool.

    Attributes:
        image_id: SHA-256 of its bytes.
        path: the picture's path relative to the document that is written, with slashes.
        labels: its labels; empty: it is still to be labelled.
        guess: the label that a model predicts, or several; None for no guess.
        probability: the probability of that label, or None.
    """

    image_id: str
    path: str
    labels: Sequence[str] = ()
    guess: str | Sequence[str] | None = None
    probability: float | None = None

    def list_guesses(self) -> list[str]:
        """Return the labels of the guess, sorted."""
        return [self.guess] if isinstance(self.guess, str) else sorted(self.guess or ())


def check_file_name(row: ExportRow) -> None:
    """Raise UserError if the name of a picture does not hold its image_id, by which a tool's export is matched."""
    if row.image_id not in row.path.rpartition("/")[2]:
        raise UserError(
            f"{row.path}: the name of the picture must hold its whole image_id, which this format keeps nowhere "
            f"else; name it {row.image_id}"
        )
