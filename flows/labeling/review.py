"""Write the images most worth a person's label into a folder: review.csv to fill in, and a page to look at.

Images that the project's dataset has a label for are left out, and of near duplicates all but one. See
`flows.labeling.selection` for the choice among the others.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.labeling.formats.rows import ExportRow
from flows.labeling.formats.tools import DOCUMENTS, write_document
from flows.labeling.selection import CERTAIN_MARGIN, POOL_FACTOR, find_distinct, select_images
from flows.prediction.uncertainty import compute_margin, find_least_confident
from imageset.decoding.phash import compute_phashes
from imageset.exceptions import UserError
from imageset.labels import parse_labels
from imageset.rejections import Rejected
from imageset.sources.files import IMAGE_EXTENSIONS
from imageset.utils.atomic_write import replace_folder, write_bytes
from imageset.utils.text import escape_cell, format_count, unescape_cell

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle


REVIEW_COLUMNS = ("path", "label", "guess", "probability", "margin", "uri", "image_id", "model")
TABLE_FILE, PAGE_FILE, IMAGE_FOLDER = "review.csv", "review.html", "data"
DEFAULT_NEAR_DUPLICATE_BITS = 4  # outside of a project
# Near duplicates are confirmed by every second (third ...) pixel: thousands of images stay in memory.
MAX_COMPARED_SIDE_PX = 64
THUMBNAIL_PX = 224
MAX_THUMBNAILS = 500  # on the page
EMBED_BATCH_SIZE = 16


@dataclass(frozen=True)
class ReviewResult:
    """The numbers of images that were written for review, and of which of them the model is certain."""

    num_images: int
    num_certain: int = 0

    def describe(self, num_wanted: int) -> str:
        """Return the end of the line about the review: why there are fewer images, or such of little use."""
        notes = []
        if self.num_images < num_wanted:
            notes.append(
                f"{format_count(num_wanted, 'picture')} asked for, no more are readable, unlabeled and distinct"
            )
        if self.num_certain:
            notes.append(
                f"the model is sure of {self.num_certain:,} of them (margin {CERTAIN_MARGIN} or more), "
                "nothing less sure is left"
            )
        return "".join(f"; {note}" for note in notes)


@dataclass
class Candidates:
    """Images of small margin that did not change since they were predicted; row i of each list is one image.

    Attributes:
        rows: their predictions.
        vectors: features.
        phashes: perceptual hashes.
        pixels: some of each image's pixels, uint8.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    phashes: list[int] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)

    def find_distinct(self, max_bits: int | None) -> list[int]:
        """Return the positions of the images that are no near duplicate of one of smaller margin."""
        if not self.rows:
            return []
        return find_distinct(np.array(self.phashes, np.uint64), np.stack(self.pixels), max_bits)


def check_review(num: int | None, tool: str | None, folder: Path) -> None:
    """Raise UserError if the options that ask for images to label do not go together, or their folder exists.

    Args:
        num: number of images; None for none.
        tool: the labelling tool whose document is written as well, or None.
        folder: the folder to write.
    """
    if tool is not None and tool not in DOCUMENTS:
        raise UserError(f"--review-for {tool}: not one of {', '.join(DOCUMENTS)}")
    if tool is not None and num is None:
        raise UserError("--review-for says for which tool; --review N says how many pictures: give both")
    if num is not None and num < 1:
        raise UserError(f"--review {num}: name how many pictures, 1 or more")
    if num and folder.exists():
        raise UserError(f"{folder}: exists; move it away, or its labels would be lost")


def write_review(
    folder: Path,
    images: ImageStream,
    read_rows: Callable[[], Iterable[dict[str, Any]]],
    bundle: Bundle,
    num: int,
    labeled: Container[str] = frozenset(),
    near_duplicate_bits: int | None = DEFAULT_NEAR_DUPLICATE_BITS,
    tool: str | None = None,
) -> ReviewResult:
    """Write copies of the images most worth labeling, review.csv with an empty column `label`, and review.html.

    Ingest takes the filled-in table without changes: it extends and corrects the project's data. Nothing is
    written if there is no such image.

    Args:
        folder: the folder to write.
        images: the images of the source.
        read_rows: returns their predictions, from the first one on at each call.
        bundle: the model that made the predictions.
        num: number of images.
        labeled: image_ids of images that need no label.
        near_duplicate_bits: largest Hamming distance of the perceptual hashes of near duplicates; None: they are
            not looked for.
        tool: a labelling tool whose document is written as well, of flows.labeling.formats.tools; or None.
    """
    multi_label = bundle.info.multi_label
    candidates, distinct = _collect_candidates(images, read_rows, bundle, num, labeled, near_duplicate_bits)
    rows = [candidates.rows[position] for position in distinct]
    margins = np.array([compute_margin(row, multi_label) for row in rows])
    vectors = np.array([candidates.vectors[position] for position in distinct])
    selected = [rows[position] for position in select_images(vectors, margins, num)] if rows else []
    if not selected:
        return ReviewResult(0)
    cells_of = {row["uri"]: _build_cells(row, rank, multi_label) for rank, row in enumerate(selected)}
    with replace_folder(folder) as fresh:
        (fresh / IMAGE_FOLDER).mkdir()
        written = set()
        for uri, data in _iter_unchanged(images, selected):
            (fresh / cells_of[uri]["path"]).write_bytes(data)
            written.add(uri)
        selected = [row for row in selected if row["uri"] in written]
        cells = [cells_of[row["uri"]] for row in selected]
        write_bytes(fresh / TABLE_FILE, _format_table(cells))
        write_bytes(fresh / PAGE_FILE, _render_page(cells, fresh, bundle))
        if tool is not None:
            model = cells[0]["model"] if cells else ""  # none if all pictures changed since they were predicted
            write_document(tool, fresh, [_build_export_row(row, multi_label) for row in cells], model)
    certain = sum(compute_margin(row, multi_label) >= CERTAIN_MARGIN for row in selected)
    return ReviewResult(len(selected), certain)


def _collect_candidates(
    images: ImageStream,
    read_rows: Callable[[], Iterable[dict[str, Any]]],
    bundle: Bundle,
    num: int,
    labeled: Container[str],
    near_duplicate_bits: int | None,
) -> tuple[Candidates, list[int]]:
    """Return the images of smallest margin and the positions of the distinct ones, at least `num` if there are.

    The pool is doubled while it holds fewer: it may be one long series of near duplicates.
    """
    candidates, num_pool, num_before = Candidates(), POOL_FACTOR * num, 0
    while True:
        pool = find_least_confident(read_rows(), num_pool, bundle.info.multi_label, labeled)
        _add_candidates(candidates, images, pool[num_before:], bundle)
        distinct = candidates.find_distinct(near_duplicate_bits)
        if len(distinct) >= num or len(pool) < num_pool:
            return candidates, distinct
        num_pool, num_before = 2 * num_pool, len(pool)


def _add_candidates(
    candidates: Candidates, images: ImageStream, rows: list[dict[str, Any]], bundle: Bundle
) -> None:
    """Embed the images of these rows, and add them in the order of the rows."""
    from lightning_modules.features.extractor import FeatureExtractor

    extract = FeatureExtractor(bundle)
    found: dict[str, tuple[np.ndarray, int, np.ndarray]] = {}
    for uris, pixels in _iter_batches(_decode_images(images, rows, bundle)):
        vectors, _ = extract(pixels)
        step = -(-pixels.shape[1] // MAX_COMPARED_SIDE_PX)
        phashes = compute_phashes(pixels.astype(np.float32)).tolist()
        found |= dict(zip(uris, zip(vectors, phashes, pixels[:, ::step, ::step].copy(), strict=True), strict=True))
    for row in rows:
        if row["uri"] in found:
            vector, phash, pixels = found[row["uri"]]
            candidates.rows.append(row)
            candidates.vectors.append(vector)
            candidates.phashes.append(phash)
            candidates.pixels.append(pixels)


def _decode_images(
    images: ImageStream, rows: list[dict[str, Any]], bundle: Bundle
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (uri, pixels) of each image that did not change since it was predicted."""
    from imageset.executors.stream import decode_stream

    for uri, pixels in decode_stream(_iter_unchanged(images, rows), bundle.spec):
        if not isinstance(pixels, Rejected):
            yield uri, pixels


def _iter_unchanged(images: ImageStream, rows: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    id_of = {row["uri"]: row["image_id"] for row in rows}
    for image, data in images.iter_selected(set(id_of)):
        if image.image_id == id_of[image.uri]:
            yield image.uri, data


def _iter_batches(decoded: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[list[str], np.ndarray]]:
    batch: list[tuple[str, np.ndarray]] = []
    for item in decoded:
        batch.append(item)
        if len(batch) == EMBED_BATCH_SIZE:
            yield [uri for uri, _ in batch], np.stack([pixels for _, pixels in batch])
            batch = []
    if batch:
        yield [uri for uri, _ in batch], np.stack([pixels for _, pixels in batch])


def _build_cells(row: dict[str, Any], rank: int, multi_label: bool) -> dict[str, str]:
    path = f"{IMAGE_FOLDER}/{rank:04d}-{row['image_id']}{_find_suffix(row['uri'])}"
    best = row if multi_label and row["label"] is not None else row["top_k"][0]
    cells = (
        path, "", escape_cell(best["label"]), f"{best['probability']:.4f}",
        f"{compute_margin(row, multi_label):.4f}", escape_cell(row["uri"]), row["image_id"],
        escape_cell(f"{row['model_name']} version {row['model_version']}"),
    )  # fmt: skip
    return dict(zip(REVIEW_COLUMNS, cells, strict=True))


def _build_export_row(cells: dict[str, str], multi_label: bool) -> ExportRow:
    label = unescape_cell(cells["guess"])
    guess = parse_labels(label) if multi_label else label
    return ExportRow(cells["image_id"], cells["path"], guess=guess, probability=float(cells["probability"]))


def _format_table(cells: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, REVIEW_COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(cells)
    return text.getvalue().encode()


def _render_page(cells: list[dict[str, str]], folder: Path, bundle: Bundle) -> bytes:
    """Render the images with the model's guesses, to look at while the table is filled in."""
    from imageset.decoding.decoder import decode
    from imageset.html.images import encode_compact, encode_image, enlarge
    from imageset.html.page import render_page

    def encode_thumbnail(path: str) -> bytes:
        pixels = decode((folder / path).read_bytes(), bundle.spec)
        return encode_compact(encode_image(enlarge(pixels, THUMBNAIL_PX)))

    shown = [{**row, "image": encode_thumbnail(row["path"])} for row in cells[:MAX_THUMBNAILS]]
    values = {
        "title": f"{format_count(len(cells), 'picture')} to label", "items": shown,
        "several": bundle.info.multi_label,
        "model": cells[0]["model"] if cells else "", "num_more": len(cells) - len(shown), "table": TABLE_FILE,
    }  # fmt: skip
    return render_page("review.html", values)


def _find_suffix(uri: str) -> str:
    extension = os.path.splitext(uri)[1].lower()
    return extension if extension in IMAGE_EXTENSIONS else ""
