"""dataset.html: what is in a normalized dataset, for a person; one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from imageset.decoding.decoder import decode_partial
from imageset.decoding.spec import DecodeSpec
from imageset.executors.base import BaseExecutor
from imageset.executors.limits import map_with_timeout
from imageset.executors.stream import run_tasks
from imageset.html.style import DATASET_STYLE
from imageset.labels import MULTI_LABEL, parse_labels
from imageset.raw import shards
from imageset.rejections import REASONS, Rejected, Rejection, escape_control_characters
from imageset.splits.groups import group_by_name
from imageset.store import format
from imageset.store.format import SPLITS
from imageset.utils.arrow import ROWS_AT_ONCE, argsort_image_ids, take_rows
from imageset.utils.text import format_count

DATASET_PAGE_FILE = "dataset.html"
MAX_CLASSES_LISTED = 200  # in the table of class balance, the largest first
MAX_CLASSES_SHOWN, IMAGES_PER_CLASS, MAX_IMAGES_SHOWN = 100, 24, 1000  # on contact sheets
REJECTED_PER_REASON, MAX_GROUPS_SHOWN, IMAGES_PER_GROUP = 12, 30, 8
MAX_SHEETS_BYTES = 4 << 20  # no further contact sheet after so much
THUMB_PX = 80
PIXELATED_BELOW_PX = 40  # up to here pictures are shown pixel by pixel
# Of these nothing can be shown, or a look at them may end a worker again.
_UNSHOWN_REASONS = frozenset({"empty", "not_an_image", "bomb", "unsupported", "crashed", "timeout"})


def write_dataset_page(
    folder: Path,
    raw_dir: Path,
    manifest: Mapping[str, Any],
    index: pa.Table,
    refused: Sequence[Rejection],
    warnings: Sequence[str],
    pool: BaseExecutor,
    timeout_s: float,
) -> None:
    """Write folder/dataset.html; the folder holds the shards of pixels already.

    However large the dataset, the page stays below about 8 MB: what is left out is counted.
    """
    spec = DecodeSpec.from_dict(manifest["decode"])
    pixels = _PixelReader(folder, index)
    sections = {
        "Classes": _render_class_balance(manifest),
        "Sizes": _render_sizes(index),
        "Pictures": _render_contact_sheets(manifest, index, pixels),
        "Near duplicates": _render_near_duplicates(index, pixels),
        "Refused": _render_rejections(refused, raw_dir, spec, pool, timeout_s),
    }
    sections = {name: text for name, text in sections.items() if text}
    links = "".join(f'<a href="#{_to_anchor(name)}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{_to_anchor(name)}">{text}</section>\n' for name, text in sections.items())
    title = escape(escape_control_characters(manifest["name"]))
    (folder / DATASET_PAGE_FILE).write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{DATASET_STYLE}</style></head>\n<body><nav><b>{title}</b>{links}</nav>\n<main>"
        f"{_render_head(manifest, index, spec, warnings)}\n{body}</main></body></html>\n",
        encoding="utf-8",
    )


def _to_anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


class _PixelReader:
    """Thumbnails of rows of the index."""

    def __init__(self, folder: Path, index: pa.Table) -> None:
        self._folder = folder
        self._shards, self._rows = index["shard"].to_numpy(), index["row"].to_numpy()
        self._maps: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        shard = int(self._shards[number])
        if shard not in self._maps:
            self._maps[shard] = np.load(self._folder / format.name_pixel_shard(shard), mmap_mode="r")
        return np.asarray(self._maps[shard][self._rows[number]])


def _render_head(manifest: Mapping[str, Any], index: pa.Table, spec: DecodeSpec, warnings: Sequence[str]) -> str:
    facts = {
        "pictures": f"{len(index):,}",
        "labels" if manifest["task"] == MULTI_LABEL else "classes": f"{len(manifest['classes']):,}",
        "refused": f"{sum(manifest['rejected'].values()):,}",
        "px, normalized": f"{spec.size} x {spec.size} x {spec.channels}",
        "mean": " ".join(f"{one:.3f}" for one in manifest["mean"]),
        "std": " ".join(f"{one:.3f}" for one in manifest["std"]),
    }
    boxes = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in facts.items())
    notes = "".join(f"<p class=warn>{escape(escape_control_characters(warning))}</p>" for warning in warnings)
    counts = manifest["num_pictures"]
    bars = "".join(f'<i class={split} style="flex:{counts[split]}"></i>' for split in SPLITS)
    key = "".join(
        f"<span class={split}></span>{split} {counts[split]:,} ({counts[split] / len(index):.1%})"
        for split in SPLITS
    )
    rule = ", ".join(f"{name} {value}" for name, value in manifest["split"].items())
    return (
        f"<h1>{escape(escape_control_characters(manifest['name']))}</h1><div class=facts>{boxes}</div>{notes}"
        f"<div class=card><div class='bar tall'>{bars}</div><p class='small key'>{key}</p></div>"
        f"<p class=small>split: {escape(escape_control_characters(rule))}; fit {spec.fit}, {spec.interpolation}, "
        f"fidelity {spec.fidelity}; fingerprint {manifest['fingerprint']}</p>"
    )


def _render_class_balance(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    totals = {label: sum(counts[split][label] for split in SPLITS) for label in manifest["classes"]}
    listed = sorted(totals, key=lambda label: (-totals[label], label))[:MAX_CLASSES_LISTED]
    rows = "".join(_render_class_row(label, counts, max(totals.values())) for label in listed)
    more = len(totals) - len(listed)
    heads = "".join(f"<th class='n split'>{split}" for split in SPLITS)
    note = "; a picture counts for each of its labels" if manifest["task"] == MULTI_LABEL else ""
    key = "".join(f"<span class={split}></span>{split}" for split in SPLITS)
    return (
        f"<h2>Class balance</h2><p class='small key'>{key}{note}</p><div class=card><table>"
        f"<tr><th>class<th class=n>pictures{heads}<th></tr>{rows}</table>"
        + (f"<p class=small>and {more:,} more classes, none of them larger</p>" if more else "")
        + "</div>"
    )


def _render_class_row(label: str, counts: Mapping[str, Mapping[str, int]], most: int) -> str:
    bars = "".join(
        f'<i class={split} style="width:{100 * counts[split][label] / most:.2f}%"></i>'
        for split in SPLITS
        if counts[split][label]
    )
    numbers = "".join(f"<td class='n split'>{counts[split][label]:,}</td>" for split in SPLITS)
    total = sum(counts[split][label] for split in SPLITS)
    return (
        f"<tr><td class=name>{escape(escape_control_characters(label))}</td><td class=n>{total:,}</td>{numbers}"
        f"<td class=wide><div class=bar>{bars}</div></td></tr>"
    )


def _render_sizes(index: pa.Table) -> str:
    sides = np.minimum(index["width"].to_numpy(), index["height"].to_numpy())
    edges = [0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 1 << 31]
    counts, _ = np.histogram(sides, edges)
    rows = []
    for low, high, num in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        if num:
            name = f"{low:,} to {high - 1:,}" if high < 1 << 31 else f"{low:,} and more"
            rows.append(
                f"<tr><td class=name>{name} px</td><td class=n>{num:,}</td><td class=wide><div class=bar>"
                f'<i class=train style="width:{100 * num / counts.max():.2f}%"></i></div></td></tr>'
            )
    both = index["width"].to_numpy().astype(np.int64) << 32 | index["height"].to_numpy()
    values, first, nums = np.unique(both, return_index=True, return_counts=True)
    common = np.lexsort((first, -nums))[:5].tolist()
    shapes = ", ".join(f"{values[one] >> 32} x {values[one] & 0xFFFFFFFF} ({nums[one]:,})" for one in common)
    return (
        f"<h2>Sizes as they came</h2><p class=small>short side; most frequent width x height: {shapes}</p>"
        f"<div class=card><table>{''.join(rows)}</table></div>"
    )


def _render_contact_sheets(manifest: Mapping[str, Any], index: pa.Table, pixels: _PixelReader) -> str:
    """A contact sheet of each class: the pictures with the smallest image_ids, as good as random."""
    several = manifest["task"] == MULTI_LABEL
    chosen: dict[str, list[int]] = {label: [] for label in manifest["classes"][:MAX_CLASSES_SHOWN]}
    chosen |= {"": []} if several else {}
    each = min(IMAGES_PER_CLASS, MAX_IMAGES_SHOWN // len(chosen))
    order = argsort_image_ids(index["image_id"])
    for start in range(0, len(order), ROWS_AT_ONCE):
        numbers = order[start : start + ROWS_AT_ONCE]
        labels = take_rows(index.select(["label"]), numbers)["label"].to_pylist()
        for number, label in zip(numbers.tolist(), labels, strict=True):
            for name in (parse_labels(label) or [""]) if several else [label]:
                if name in chosen and len(chosen[name]) < each:
                    chosen[name].append(number)
        if all(len(some) == each for some in chosen.values()):
            break
    parts: list[str] = []
    for label, some in chosen.items():
        if some and sum(map(len, parts)) < MAX_SHEETS_BYTES:
            parts.append(_render_contact_sheet(label, [pixels[number] for number in some]))
    more = len(manifest["classes"]) + several - len(parts)
    return (
        "<h2>Contact sheets</h2><p class=small>some pictures of each class, as the network sees them</p>"
        + "".join(parts)
        + (f"<p>and {more:,} more classes</p>" if more > 0 else "")
    )


def _render_contact_sheet(label: str, pictures: list[np.ndarray]) -> str:
    """One JPEG holds all thumbnails side by side; each cell shows its part, so that they wrap."""
    strip = Image.new("RGB", (THUMB_PX * len(pictures), THUMB_PX))
    for number, picture in enumerate(pictures):
        strip.paste(_build_thumbnail(picture), (number * THUMB_PX, 0))
    parts = [100 * number / max(1, len(pictures) - 1) for number in range(len(pictures))]
    cells = "".join(f'<i style="background-position:{part:.4g}% 0"></i>' for part in parts)
    name = escape(escape_control_characters(label or "none of them"))
    return (
        f'<div class=card><h3>{name}</h3><div class=sheet role=img aria-label="pictures of {name}" '
        f'style="--s:url({_to_jpeg_url(strip)})">{cells}</div></div>'
    )


def _render_near_duplicates(index: pa.Table, pixels: _PixelReader) -> str:
    numbers = np.flatnonzero(pc.starts_with(index["group"], "near-").fill_null(False).to_numpy())  # type: ignore[attr-defined]
    if not len(numbers):
        return ""
    leaders = group_by_name(index["group"])
    numbers = numbers[np.argsort(leaders[numbers], kind="stable")]  # group by group
    firsts, counts = np.unique(leaders[numbers], return_counts=True)
    ends = np.cumsum(counts)
    largest = np.argsort(-counts, kind="stable")[:MAX_GROUPS_SHOWN].tolist()
    cards = []
    for one in largest:
        group = numbers[ends[one] - counts[one] : ends[one]]
        some = group[:IMAGES_PER_GROUP]
        names = take_rows(index.select(["uri", "split"]), some).to_pylist()
        figures = [
            _render_figure(pixels[number], name["uri"], name["split"])
            for number, name in zip(some.tolist(), names, strict=True)
        ]
        more = len(group) - len(figures)
        cards.append(
            f"<div class='card'><div class=strip>{''.join(figures)}</div>"
            + (f"<p class=small>and {more:,} more</p>" if more else "")
            + "</div>"
        )
    total, left = len(numbers), len(firsts) - len(largest)
    return (
        f"<h2>Near duplicates</h2><p class=small>{total:,} pictures in {format_count(len(firsts), 'group')} of "
        f"look-alikes; each group stays in one split</p><div class=groups>{''.join(cards)}</div>"
        + (f"<p>and {format_count(left, 'more group')}</p>" if left else "")
    )


def _render_rejections(
    refused: Sequence[Rejection], raw_dir: Path, spec: DecodeSpec, pool: BaseExecutor, timeout_s: float
) -> str:
    if not refused:
        return "<h2>Refused</h2><p>Nothing.</p>"
    by_reason: dict[str, list[Rejection]] = {}
    for one in sorted(refused, key=lambda one: (one.reason, one.image_id or "", one.uri)):
        by_reason.setdefault(one.reason, []).append(one)
    shown = {reason: some[:REJECTED_PER_REASON] for reason, some in by_reason.items()}
    ids = {
        one.image_id
        for reason, some in shown.items()
        for one in some
        if one.image_id and reason not in _UNSHOWN_REASONS
    }
    thumbs = _decode_rejected(sorted(ids), raw_dir, spec, pool, timeout_s)
    parts = []
    for reason, some in shown.items():
        strip = "".join(_render_figure(thumbs.get(one.image_id or ""), one.uri, one.detail) for one in some)
        more = len(by_reason[reason]) - len(some)
        parts.append(
            f"<div class=card><h3>{reason}: {len(by_reason[reason]):,} <span>{REASONS[reason]}</span></h3>"
            f"<div class=strip>{strip}</div>"
            + (f"<p class=small>and {more:,} more</p>" if more else "")
            + "</div>"
        )
    return (
        "<h2>Refused</h2><p class=small>of a damaged picture what can still be decoded is shown; all rows are in "
        "rejected.parquet</p>" + "".join(parts)
    )


def _decode_rejected(
    image_ids: Sequence[str], raw_dir: Path, spec: DecodeSpec, pool: BaseExecutor, timeout_s: float
) -> dict[str, np.ndarray]:
    """Pixels of pictures that are not in the store, decoded in the workers as far as that goes."""
    if not image_ids:
        return {}
    contents = (content for _, content in shards.read_image_bytes(raw_dir, image_ids))
    work = partial(_decode_partial_in_worker, spec=spec, timeout_s=timeout_s)
    outcomes = run_tasks(pool, work, contents, split_singles=lambda task: [task], ahead=4)
    found = zip(image_ids, (outcome[0] for outcome in outcomes), strict=True)
    return {image_id: pixels for image_id, pixels in found if not isinstance(pixels, Rejected)}


def _decode_partial_in_worker(data: bytes, spec: DecodeSpec, timeout_s: float) -> np.ndarray | Rejected:
    result: np.ndarray | Rejected = map_with_timeout(partial(decode_partial, spec=spec), [data], timeout_s)[0]
    return result


def _render_figure(pixels: np.ndarray | None, name: str, note: str) -> str:
    picture = "<div class=none>no picture</div>"
    if pixels is not None:
        picture = f'<img alt="" src="{_to_jpeg_url(_build_thumbnail(pixels))}">'
    return f"<figure>{picture}<figcaption><b>{_shorten(name)}</b> {_shorten(note)}</figcaption></figure>"


def _shorten(text: str) -> str:
    """Escaped, and of a very long text its end: that is where the name of a file stands."""
    text = escape_control_characters(text)
    return escape(text if len(text) <= 90 else "…" + text[-89:])


def _build_thumbnail(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    how = Image.Resampling.NEAREST if pixels.shape[0] <= PIXELATED_BELOW_PX else Image.Resampling.BILINEAR
    return picture.resize((THUMB_PX, THUMB_PX), how)


def _to_jpeg_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
