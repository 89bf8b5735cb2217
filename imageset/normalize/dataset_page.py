"""Write dataset.html: what a normalized dataset holds, as one page that loads nothing from elsewhere."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from imageset.decoding.decoder import decode_partial
from imageset.decoding.spec import DecodeSpec
from imageset.executors.base import BaseExecutor
from imageset.executors.limits import map_with_timeout
from imageset.executors.stream import run_tasks
from imageset.html.page import render_page
from imageset.labels import MULTI_LABEL, parse_labels
from imageset.raw import shards
from imageset.rejections import REASONS, Rejected, Rejection
from imageset.splits.groups import group_by_name
from imageset.store import format
from imageset.store.format import SPLITS
from imageset.utils.arrow import ROWS_AT_ONCE, argsort_image_ids, take_rows
from imageset.utils.text import format_count

DATASET_PAGE_FILE = "dataset.html"
MAX_CLASSES_LISTED = 200  # in the table of class balance, the largest first
MAX_CLASSES_SHOWN, IMAGES_PER_CLASS, MAX_IMAGES_SHOWN = 100, 24, 1000  # on contact sheets
REJECTED_PER_REASON, MAX_GROUPS_SHOWN, IMAGES_PER_GROUP = 12, 30, 8
MAX_SHEETS_BYTES = 3 << 20  # of JPEG files, a third more on the page; no further contact sheet after this
MAX_NAME_CHARS = 90  # of a file name or a note under a thumbnail
THUMB_PX = 80
PIXELATED_BELOW_PX = 40  # up to this size images are enlarged pixel by pixel
SIZE_EDGES_PX = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 1 << 31)
# Images rejected for these reasons are not decoded again: there is nothing to show, or it may kill another worker.
_UNSHOWN_REASONS = frozenset({"empty", "not_an_image", "bomb", "unsupported", "crashed", "timeout"})


class Thumbnail(NamedTuple):
    """A small image with two texts under it.

    Attributes:
        image: the bytes of a JPEG file; None if nothing can be shown.
        name: the file's name, shortened.
        note: the file's split, or why it was rejected, shortened.
    """

    image: bytes | None
    name: str
    note: str


def write_dataset_page(
    folder: Path,
    raw_dir: Path,
    manifest: Mapping[str, Any],
    index: pa.Table,
    rejections: Sequence[Rejection],
    warnings: Sequence[str],
    executor: BaseExecutor,
    timeout_s: float,
) -> None:
    """Write dataset.html into a dataset's folder, which must hold the pixel shards already.

    The page stays below about 8 MB for a dataset of any size: images beyond the limits are only counted.
    """
    spec = DecodeSpec.from_dict(manifest["decode"])
    pixels = _PixelReader(folder, index)
    values = {
        **_describe_dataset(manifest, index, spec),
        "warnings": warnings,
        "class_balance": _count_classes(manifest),
        "sizes": _count_sizes(index),
        "contact_sheets": _draw_contact_sheets(manifest, index, pixels),
        "near_duplicates": _collect_near_duplicates(index, pixels),
        "rejections": _collect_rejections(rejections, raw_dir, spec, executor, timeout_s),
    }
    (folder / DATASET_PAGE_FILE).write_bytes(render_page("dataset.html", values))


class _PixelReader:
    """Pixels of images by their row in the index, uint8 (H, W, C)."""

    def __init__(self, folder: Path, index: pa.Table) -> None:
        self._folder = folder
        self._shards, self._rows = index["shard"].to_numpy(), index["row"].to_numpy()
        self._maps: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        shard = int(self._shards[number])
        if shard not in self._maps:
            self._maps[shard] = np.load(self._folder / format.name_pixel_shard(shard), mmap_mode="r")
        return np.asarray(self._maps[shard][self._rows[number]])


def _describe_dataset(manifest: Mapping[str, Any], index: pa.Table, spec: DecodeSpec) -> dict[str, Any]:
    multi_label = manifest["task"] == MULTI_LABEL
    facts = {
        "pictures": f"{len(index):,}",
        "labels" if multi_label else "classes": f"{len(manifest['classes']):,}",
        "rejected": f"{sum(manifest['rejected'].values()):,}",
        "px, normalized": f"{spec.size} x {spec.size} x {spec.channels}",
        "mean": " ".join(f"{mean:.3f}" for mean in manifest["mean"]),
        "std": " ".join(f"{std:.3f}" for std in manifest["std"]),
    }
    rule = ", ".join(f"{name} {value}" for name, value in manifest["split"].items())
    sequences = f"{manifest['sequences']}; " if "sequences" in manifest else ""
    settings = (
        f"split: {rule}; {sequences}fit {spec.fit}, {spec.interpolation}, fidelity {spec.fidelity}; "
        f"fingerprint {manifest['fingerprint']}"
    )
    return {
        "title": manifest["name"], "multi_label": multi_label, "facts": facts, "settings": settings,
        "splits": SPLITS, "num_images": manifest["num_pictures"], "total": len(index),
    }  # fmt: skip


def _count_classes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    counts = manifest["counts"]
    totals = {label: sum(counts[split][label] for split in SPLITS) for label in manifest["classes"]}
    listed = sorted(totals, key=lambda label: (-totals[label], label))[:MAX_CLASSES_LISTED]
    rows = [
        {"label": label, "total": totals[label], "counts": {split: counts[split][label] for split in SPLITS}}
        for label in listed
    ]
    return {"rows": rows, "largest": max(totals.values()), "num_more": len(totals) - len(listed)}


def _count_sizes(index: pa.Table) -> dict[str, Any]:
    """Count the images by the length of their short side, and find the five most frequent sizes."""
    widths, heights = index["width"].to_numpy(), index["height"].to_numpy()
    counts, _ = np.histogram(np.minimum(widths, heights), SIZE_EDGES_PX)
    rows = [
        (f"{low:,} to {high - 1:,}" if high < 1 << 31 else f"{low:,} and more", num)
        for low, high, num in zip(SIZE_EDGES_PX[:-1], SIZE_EDGES_PX[1:], counts.tolist(), strict=True)
        if num
    ]
    sizes, firsts, nums = np.unique(widths.astype(np.int64) << 32 | heights, return_index=True, return_counts=True)
    order = np.lexsort((firsts, -nums))[:5]
    common = zip(
        (sizes[order] >> 32).tolist(), (sizes[order] & 0xFFFFFFFF).tolist(), nums[order].tolist(), strict=True
    )
    return {"rows": rows, "largest": int(counts.max()), "common": list(common)}


def _draw_contact_sheets(manifest: Mapping[str, Any], index: pa.Table, pixels: _PixelReader) -> dict[str, Any]:
    """Draw a contact sheet of each class from the images with the smallest image_ids, as good as random."""
    multi_label = manifest["task"] == MULTI_LABEL
    sheets: list[dict[str, Any]] = []
    num_bytes = 0
    for label, numbers in _choose_images(manifest["classes"], index, multi_label).items():
        if numbers and num_bytes < MAX_SHEETS_BYTES:
            image = _draw_contact_sheet([pixels[number] for number in numbers])
            sheets.append({"label": label or "none of them", "image": image, "num_images": len(numbers)})
            num_bytes += len(image)
    return {"sheets": sheets, "num_more": len(manifest["classes"]) + multi_label - len(sheets)}


def _choose_images(classes: Sequence[str], index: pa.Table, multi_label: bool) -> dict[str, list[int]]:
    """Choose rows of the index for each class; under "" those without a label, if images may have several."""
    chosen: dict[str, list[int]] = {label: [] for label in classes[:MAX_CLASSES_SHOWN]}
    chosen |= {"": []} if multi_label else {}
    num_each = min(IMAGES_PER_CLASS, MAX_IMAGES_SHOWN // len(chosen))
    order = argsort_image_ids(index["image_id"])
    for start in range(0, len(order), ROWS_AT_ONCE):
        numbers = order[start : start + ROWS_AT_ONCE]
        labels = take_rows(index.select(["label"]), numbers)["label"].to_pylist()
        for number, label in zip(numbers.tolist(), labels, strict=True):
            for name in (parse_labels(label) or [""]) if multi_label else [label]:
                if name in chosen and len(chosen[name]) < num_each:
                    chosen[name].append(number)
        if all(len(numbers_of_class) == num_each for numbers_of_class in chosen.values()):
            break
    return chosen


def _draw_contact_sheet(images: list[np.ndarray]) -> bytes:
    """Draw all thumbnails side by side as one JPEG file."""
    strip = Image.new("RGB", (THUMB_PX * len(images), THUMB_PX))
    for number, image in enumerate(images):
        strip.paste(_draw_thumbnail(image), (number * THUMB_PX, 0))
    return _encode_jpeg(strip)


def _collect_near_duplicates(index: pa.Table, pixels: _PixelReader) -> dict[str, Any] | None:
    """Collect the largest groups of near duplicates; None if there are none."""
    numbers = np.flatnonzero(pc.starts_with(index["group"], "near-").fill_null(False).to_numpy())  # type: ignore[attr-defined]
    if not len(numbers):
        return None
    anchors = group_by_name(index["group"])
    numbers = numbers[np.argsort(anchors[numbers], kind="stable")]  # group by group
    firsts, counts = np.unique(anchors[numbers], return_counts=True)
    ends = np.cumsum(counts)
    largest = np.argsort(-counts, kind="stable")[:MAX_GROUPS_SHOWN].tolist()
    groups = [
        _collect_group(index, pixels, numbers[ends[group] - counts[group] : ends[group]]) for group in largest
    ]
    num_more = len(firsts) - len(largest)
    summary = (
        f"{len(numbers):,} pictures in {format_count(len(firsts), 'group')} of look-alikes; "
        "each group stays in one split"
    )
    more = format_count(num_more, "more group") if num_more else ""
    return {"summary": summary, "groups": groups, "more": more}


def _collect_group(index: pa.Table, pixels: _PixelReader, numbers: np.ndarray) -> dict[str, Any]:
    shown = numbers[:IMAGES_PER_GROUP]
    rows = take_rows(index.select(["uri", "split"]), shown).to_pylist()
    thumbnails = [
        _make_thumbnail(pixels[number], row["uri"], row["split"])
        for number, row in zip(shown.tolist(), rows, strict=True)
    ]
    return {"thumbnails": thumbnails, "num_more": len(numbers) - len(thumbnails)}


def _collect_rejections(
    rejections: Sequence[Rejection], raw_dir: Path, spec: DecodeSpec, executor: BaseExecutor, timeout_s: float
) -> list[dict[str, Any]]:
    """Collect the rejected images by reason, with thumbnails of those that can be decoded in part."""
    by_reason: dict[str, list[Rejection]] = {}
    for rejection in sorted(
        rejections, key=lambda rejection: (rejection.reason, rejection.image_id or "", rejection.uri)
    ):
        by_reason.setdefault(rejection.reason, []).append(rejection)
    shown = {reason: rejected[:REJECTED_PER_REASON] for reason, rejected in by_reason.items()}
    image_ids = {
        rejection.image_id
        for reason, rejected in shown.items()
        for rejection in rejected
        if rejection.image_id and reason not in _UNSHOWN_REASONS
    }
    images = _decode_rejected(sorted(image_ids), raw_dir, spec, executor, timeout_s)
    return [
        {
            "code": reason,
            "meaning": REASONS[reason],
            "num": len(by_reason[reason]),
            "num_more": len(by_reason[reason]) - len(rejected),
            "thumbnails": [
                _make_thumbnail(images.get(rejection.image_id or ""), rejection.uri, rejection.detail)
                for rejection in rejected
            ],
        }
        for reason, rejected in shown.items()
    ]


def _decode_rejected(
    image_ids: Sequence[str], raw_dir: Path, spec: DecodeSpec, executor: BaseExecutor, timeout_s: float
) -> dict[str, np.ndarray]:
    """Decode images that are not in the store, in the workers and as far as possible."""
    if not image_ids:
        return {}
    contents = (content for _, content in shards.read_image_bytes(raw_dir, image_ids))
    work = partial(_decode_partial_in_worker, spec=spec, timeout_s=timeout_s)
    outcomes = run_tasks(executor, work, contents, split_singles=lambda task: [task], ahead=4)
    decoded = zip(image_ids, (outcome[0] for outcome in outcomes), strict=True)
    return {image_id: pixels for image_id, pixels in decoded if not isinstance(pixels, Rejected)}


def _decode_partial_in_worker(data: bytes, spec: DecodeSpec, timeout_s: float) -> np.ndarray | Rejected:
    result: np.ndarray | Rejected = map_with_timeout(partial(decode_partial, spec=spec), [data], timeout_s)[0]
    return result


def _make_thumbnail(pixels: np.ndarray | None, name: str, note: str) -> Thumbnail:
    image = None if pixels is None else _encode_jpeg(_draw_thumbnail(pixels))
    return Thumbnail(image, _shorten(name), _shorten(note))


def _shorten(text: str) -> str:
    """Return the end of a very long text: a path ends with the file's name."""
    return text if len(text) <= MAX_NAME_CHARS else "…" + text[1 - MAX_NAME_CHARS :]


def _draw_thumbnail(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    resampling = Image.Resampling.NEAREST if pixels.shape[0] <= PIXELATED_BELOW_PX else Image.Resampling.BILINEAR
    return image.resize((THUMB_PX, THUMB_PX), resampling)


def _encode_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
