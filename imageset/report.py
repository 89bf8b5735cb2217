"""dataset.html: what is in a normalized dataset, for a person; one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from imageset import raw, store
from imageset.decode import DecodeSpec, Rejected, decode
from imageset.judge import Refusal
from imageset.labels import MULTI_LABEL, names_of
from imageset.pool import Crew, run_all
from imageset.quality import REASONS, plain
from imageset.split import SPLITS
from imageset.worker import run

REPORT = "dataset.html"
CLASSES_SHOWN, PICTURES_A_CLASS = 100, 24
REFUSED_A_REASON, GROUPS_SHOWN, PICTURES_A_GROUP = 12, 30, 8
THUMB_PX = 64

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;background:#f6f7f9;margin:0}
main{max-width:1080px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:26px;margin:8px 0}h2{font-size:19px;margin:34px 0 10px}h3{font-size:15px;margin:18px 0 6px}
.facts{display:flex;flex-wrap:wrap;gap:10px}.facts div{background:#fff;border:1px solid #dde2e8;border-radius:8px;
padding:8px 14px}.facts b{display:block;font-size:19px}.small{color:#5b6675;font-size:13px}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid #dde2e8}
td,th{padding:4px 10px;text-align:left;border-bottom:1px solid #edf0f3;font-weight:400}th{color:#5b6675}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{display:flex;height:14px;min-width:1px}.bar i{display:block;height:14px}
.train{background:#3465a4}.val{background:#f0a030}.test{background:#4e9a52}
img{image-rendering:auto;max-width:100%;border-radius:4px;vertical-align:top}
.strip{display:flex;flex-wrap:wrap;gap:8px;margin:6px 0}figure{margin:0;width:112px}
figure img,figure .none{width:64px;height:64px;display:block}figure .none{background:#e5e8ec;border-radius:4px}
figcaption{font-size:11px;color:#5b6675;overflow-wrap:anywhere}
.key span{display:inline-block;width:10px;height:10px;margin:0 4px 0 12px;border-radius:2px}
"""


def write_report(
    folder: Path,
    raw_dir: Path,
    manifest: Mapping[str, Any],
    index: pa.Table,
    refused: Sequence[Refusal],
    warnings: Sequence[str],
    pool: Crew,
    timeout_s: float,
) -> None:
    """Write folder/dataset.html; the folder holds the shards of pixels already."""
    spec = DecodeSpec.from_dict(manifest["decode"])
    pixels = _Pixels(folder, index)
    parts = [
        _head(manifest, index, spec, warnings),
        _balance(manifest),
        _sizes(index),
        _sheets(manifest, index, pixels),
        _near(index, pixels),
        _refusals(refused, raw_dir, spec, pool, timeout_s),
    ]
    title = escape(plain(manifest["name"]))
    (folder / REPORT).write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n",
        encoding="utf-8",
    )


class _Pixels:
    """Thumbnails of rows of the index."""

    def __init__(self, folder: Path, index: pa.Table) -> None:
        self._folder = folder
        self._shards, self._rows = index["shard"].to_numpy(), index["row"].to_numpy()
        self._maps: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        shard = int(self._shards[number])
        if shard not in self._maps:
            self._maps[shard] = np.load(self._folder / store.shard_name(shard), mmap_mode="r")
        return np.asarray(self._maps[shard][self._rows[number]])


def _head(manifest: Mapping[str, Any], index: pa.Table, spec: DecodeSpec, warnings: Sequence[str]) -> str:
    facts = {
        "pictures": f"{len(index):,}",
        "labels" if manifest["task"] == MULTI_LABEL else "classes": f"{len(manifest['classes']):,}",
        **{split: f"{manifest['num_pictures'][split]:,}" for split in SPLITS},
        "refused": f"{sum(manifest['rejected'].values()):,}",
        "normalized to": f"{spec.size} x {spec.size} x {spec.channels}",
        "mean": ", ".join(f"{one:.3f}" for one in manifest["mean"]),
        "std": ", ".join(f"{one:.3f}" for one in manifest["std"]),
    }
    boxes = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in facts.items())
    notes = "".join(f"<p>Warning: {escape(plain(warning))}</p>" for warning in warnings)
    return (
        f"<h1>{escape(plain(manifest['name']))}</h1><div class=facts>{boxes}</div>{notes}"
        f"<p class=small>fingerprint {manifest['fingerprint']}; fit {spec.fit}, {spec.interpolation}, "
        f"fidelity {spec.fidelity}</p>"
    )


def _balance(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    totals = {label: sum(counts[split][label] for split in SPLITS) for label in manifest["classes"]}
    most = max(totals.values())
    rows = []
    for label, total in totals.items():
        bars = "".join(
            f'<i class={split} style="width:{100 * counts[split][label] / most:.2f}%"></i>' for split in SPLITS
        )
        numbers = "".join(f"<td class=n>{counts[split][label]:,}</td>" for split in SPLITS)
        rows.append(
            f"<tr><td>{escape(plain(label))}</td><td class=n>{total:,}</td>{numbers}"
            f'<td style="width:55%"><div class=bar>{bars}</div></td></tr>'
        )
    key = "".join(f"<span class={split}></span>{split}" for split in SPLITS)
    key += "; a picture counts for each of its labels" if manifest["task"] == MULTI_LABEL else ""
    return (
        f"<h2>Class balance</h2><p class='small key'>{key}</p><table><tr><th>class<th>pictures"
        + "".join(f"<th>{split}" for split in SPLITS)
        + "<th></tr>"
        + "".join(rows)
        + "</table>"
    )


def _sizes(index: pa.Table) -> str:
    sides = np.minimum(index["width"].to_numpy(), index["height"].to_numpy())
    edges = [0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 1 << 31]
    counts, _ = np.histogram(sides, edges)
    rows = []
    for low, high, num in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        if num:
            name = f"{low:,} to {high - 1:,}" if high < 1 << 31 else f"{low:,} and more"
            rows.append(
                f'<tr><td>{name} px</td><td class=n>{num:,}</td><td style="width:70%"><div class=bar>'
                f'<i class=train style="width:{100 * num / counts.max():.2f}%"></i></div></td></tr>'
            )
    common = Counter(zip(index["width"].to_pylist(), index["height"].to_pylist(), strict=True)).most_common(5)
    shapes = ", ".join(f"{width} x {height} ({num:,})" for (width, height), num in common)
    return (
        f"<h2>Sizes as they came</h2><p class=small>short side; most frequent width x height: {shapes}</p>"
        f"<table>{''.join(rows)}</table>"
    )


def _sheets(manifest: Mapping[str, Any], index: pa.Table, pixels: _Pixels) -> str:
    """A contact sheet of each class: the pictures with the smallest image_ids, as good as random."""
    order = pc.sort_indices(index["image_id"]).to_numpy().tolist()  # type: ignore[attr-defined]
    labels, several = index["label"].to_pylist(), manifest["task"] == MULTI_LABEL
    chosen: dict[str, list[int]] = {label: [] for label in manifest["classes"][:CLASSES_SHOWN]}
    chosen |= {"": []} if several else {}
    for number in order:
        for name in (names_of(labels[number]) or [""]) if several else [labels[number]]:
            if name in chosen and len(chosen[name]) < PICTURES_A_CLASS:
                chosen[name].append(number)
    parts = [
        f"<h3>{escape(plain(label or 'none of them'))}</h3>{_image(_sheet([pixels[number] for number in some]))}"
        for label, some in chosen.items()
        if some
    ]
    more = len(manifest["classes"]) - CLASSES_SHOWN
    return "<h2>Contact sheets</h2>" + "".join(parts) + (f"<p>and {more:,} more classes</p>" if more > 0 else "")


def _near(index: pa.Table, pixels: _Pixels) -> str:
    groups: dict[str, list[int]] = {}
    for number, group in enumerate(index["group"].to_pylist()):
        if group is not None and group.startswith("near-"):
            groups.setdefault(group, []).append(number)
    if not groups:
        return ""
    uris, splits = index["uri"].to_pylist(), index["split"].to_pylist()
    shown = sorted(groups.values(), key=lambda group: (-len(group), group))[:GROUPS_SHOWN]
    strips = [
        "<div class=strip>"
        + "".join(
            _figure(pixels[number], f"{uris[number]} ({splits[number]})") for number in group[:PICTURES_A_GROUP]
        )
        + "</div>"
        for group in shown
    ]
    total = sum(map(len, groups.values()))
    return (
        f"<h2>Near duplicates</h2><p class=small>{total:,} pictures in {len(groups):,} groups, each in one "
        f"split; the largest {len(shown)} are shown</p>" + "".join(strips)
    )


def _refusals(refused: Sequence[Refusal], raw_dir: Path, spec: DecodeSpec, pool: Crew, timeout_s: float) -> str:
    if not refused:
        return "<h2>Refused</h2><p>Nothing.</p>"
    by_reason: dict[str, list[Refusal]] = {}
    for one in sorted(refused, key=lambda one: (one.reason, one.uri)):
        by_reason.setdefault(one.reason, []).append(one)
    shown = {reason: some[:REFUSED_A_REASON] for reason, some in by_reason.items()}
    ids = {
        one.image_id
        for some in shown.values()
        for one in some
        if one.image_id and one.reason in ("duplicate", "label_conflict", "leak", "unlabelled")
    }
    thumbs = _decoded(sorted(ids), raw_dir, spec, pool, timeout_s)
    parts = []
    for reason, some in shown.items():
        strip = "".join(_figure(thumbs.get(one.image_id or ""), f"{one.uri}: {one.detail}") for one in some)
        more = len(by_reason[reason]) - len(some)
        parts.append(
            f"<h3>{reason}: {len(by_reason[reason]):,}</h3><p class=small>{REASONS[reason]}</p>"
            f"<div class=strip>{strip}</div>" + (f"<p class=small>and {more:,} more</p>" if more else "")
        )
    return "<h2>Refused</h2>" + "".join(parts)


def _decoded(
    image_ids: Sequence[str], raw_dir: Path, spec: DecodeSpec, pool: Crew, timeout_s: float
) -> dict[str, np.ndarray]:
    """Pixels of pictures that are not in the store, decoded in the workers."""
    data = [content for _, content in raw.read_bytes(raw_dir, image_ids)] if image_ids else []
    work = partial(_decode_one, spec=spec, timeout_s=timeout_s)
    outcomes = run_all(pool, work, data, alone=lambda task: [task], ahead=4)
    found = zip(image_ids, (outcome[0] for outcome in outcomes), strict=True)
    return {image_id: pixels for image_id, pixels in found if not isinstance(pixels, Rejected)}


def _decode_one(data: bytes, spec: DecodeSpec, timeout_s: float) -> np.ndarray | Rejected:
    result: np.ndarray | Rejected = run(partial(decode, spec=spec), [data], timeout_s)[0]
    return result


def _figure(pixels: np.ndarray | None, caption: str) -> str:
    picture = "<div class=none></div>" if pixels is None else _image(_thumb(pixels))
    return f"<figure>{picture}<figcaption>{escape(plain(caption))}</figcaption></figure>"


def _thumb(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return picture.resize((THUMB_PX, THUMB_PX), Image.Resampling.BILINEAR)


def _sheet(pictures: Iterable[np.ndarray]) -> Image.Image:
    thumbs = [_thumb(pixels) for pixels in pictures]
    across, gap = 12, 4
    down = max(1, -(-len(thumbs) // across))
    step = THUMB_PX + gap
    sheet = Image.new("RGB", (across * step - gap, down * step - gap), (246, 247, 249))
    for number, thumb in enumerate(thumbs):
        sheet.paste(thumb, (number % across * step, number // across * step))
    return sheet


def _image(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
