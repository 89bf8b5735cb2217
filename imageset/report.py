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

from imageset import raw, store
from imageset.decode import DecodeSpec, Rejected, salvage
from imageset.judge import Refusal
from imageset.labels import MULTI_LABEL, names_of
from imageset.near import tied_by
from imageset.ondisk import ROWS_AT_ONCE, by_image_id, taken
from imageset.pool import Crew, run_all
from imageset.quality import REASONS, plain
from imageset.split import SPLITS
from imageset.words import count
from imageset.worker import run

REPORT = "dataset.html"
CLASSES_LISTED = 200  # in the table of class balance, the largest first
CLASSES_SHOWN, PICTURES_A_CLASS, PICTURES_IN_ALL = 100, 24, 1000  # on contact sheets
REFUSED_A_REASON, GROUPS_SHOWN, PICTURES_A_GROUP = 12, 30, 8
SHEETS_BYTES = 4 << 20  # no further contact sheet after so much
THUMB_PX = 80
SMALL_PX = 40  # up to here pictures are shown pixel by pixel
# Of these nothing can be shown, or a look at them may end a worker again.
_NEVER_SHOWN = frozenset({"empty", "not_an_image", "bomb", "unsupported", "crashed", "timeout"})

_STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--line:#e1e5ea;--text:#1b2430;--soft:#5d6978;
--train:#3f74bd;--val:#e39a33;--test:#3f9d70;--warn:#fff4dc;--warn-line:#ecc776}
@media(prefers-color-scheme:dark){:root{--page:#14181e;--card:#1d232b;--line:#303945;--text:#e6eaf0;--soft:#9aa7b6;
--train:#6b9fe4;--val:#edae55;--test:#5fbf91;--warn:#3a2f17;--warn-line:#7a622c}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:56px}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--text);
background:var(--page);margin:0}
nav{position:sticky;top:0;z-index:1;background:var(--card);border-bottom:1px solid var(--line);overflow-x:auto;
white-space:nowrap;padding:10px max(16px,calc(50% - 540px))}
nav a{color:var(--soft);text-decoration:none;margin-right:20px}nav a:hover{color:var(--text)}
nav b{margin-right:24px}main{max-width:1112px;margin:0 auto;padding:20px 16px 64px}
h1{font-size:28px;line-height:1.2;margin:10px 0 16px;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 10px}h3{font-size:15px;margin:0 0 8px;overflow-wrap:anywhere}
h3 span,.small{color:var(--soft);font-size:13px;font-weight:400}p{margin:6px 0}
.small{overflow-wrap:anywhere}.card{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:14px 16px;margin:10px 0}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(162px,1fr));gap:10px;margin:12px 0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:10px 14px;
color:var(--soft);font-size:13px}.facts b{display:block;font-size:15px;letter-spacing:-.02em;white-space:nowrap;
color:var(--text);line-height:1.3}
.warn{background:var(--warn);border:1px solid var(--warn-line);border-radius:12px;padding:10px 14px;margin:10px 0;
overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{padding:5px 10px 5px 0;text-align:left;font-weight:400;
border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}th{color:var(--soft);font-size:13px}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.name{overflow-wrap:anywhere;min-width:80px}td.wide{width:52%;padding-right:0}
.bar{display:flex;height:14px;border-radius:4px;overflow:hidden}
.bar i{display:block;min-width:1px}
.bar.tall{height:22px}
.train{background:var(--train)}.val{background:var(--val)}.test{background:var(--test)}
.key span{display:inline-block;width:11px;height:11px;margin:0 5px 0 14px;border-radius:3px}
.key span:first-child{margin-left:0}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(78px,1fr));gap:6px}
.sheet i{aspect-ratio:1;border-radius:6px;background:var(--s) no-repeat;background-size:auto 100%}
.strip{display:flex;flex-wrap:wrap;gap:6px}
figure img,figure .none{width:80px;height:80px;border-radius:6px;display:block}
.groups{display:grid;gap:10px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,290px),1fr))}.groups .card{margin:0}
.groups .strip{gap:4px}.groups figure{width:82px;margin-right:0}
figure{margin:0 6px 8px 0;width:112px}figure .none{border:1px dashed var(--line);color:var(--soft);display:grid;
place-items:center;font-size:11px}
figcaption{font-size:11px;line-height:1.35;color:var(--soft);overflow-wrap:anywhere;margin-top:3px}
figcaption b{color:var(--text);font-weight:600;display:block}
@media(max-width:600px){.split{display:none}td.wide{width:36%}.facts{grid-template-columns:repeat(2,1fr)}
figure{width:96px}h1{font-size:23px}}
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
    """Write folder/dataset.html; the folder holds the shards of pixels already.

    However large the dataset, the page stays below about 8 MB: what is left out is counted.
    """
    spec = DecodeSpec.from_dict(manifest["decode"])
    pixels = _Pixels(folder, index)
    sections = {
        "Classes": _balance(manifest),
        "Sizes": _sizes(index),
        "Pictures": _sheets(manifest, index, pixels),
        "Near duplicates": _near(index, pixels),
        "Refused": _refusals(refused, raw_dir, spec, pool, timeout_s),
    }
    sections = {name: text for name, text in sections.items() if text}
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{_anchor(name)}">{text}</section>\n' for name, text in sections.items())
    title = escape(plain(manifest["name"]))
    (folder / REPORT).write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><nav><b>{title}</b>{links}</nav>\n<main>"
        f"{_head(manifest, index, spec, warnings)}\n{body}</main></body></html>\n",
        encoding="utf-8",
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


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
        "refused": f"{sum(manifest['rejected'].values()):,}",
        "px, normalized": f"{spec.size} x {spec.size} x {spec.channels}",
        "mean": " ".join(f"{one:.3f}" for one in manifest["mean"]),
        "std": " ".join(f"{one:.3f}" for one in manifest["std"]),
    }
    boxes = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in facts.items())
    notes = "".join(f"<p class=warn>{escape(plain(warning))}</p>" for warning in warnings)
    counts = manifest["num_pictures"]
    bars = "".join(f'<i class={split} style="flex:{counts[split]}"></i>' for split in SPLITS)
    key = "".join(
        f"<span class={split}></span>{split} {counts[split]:,} ({counts[split] / len(index):.1%})"
        for split in SPLITS
    )
    rule = ", ".join(f"{name} {value}" for name, value in manifest["split"].items())
    return (
        f"<h1>{escape(plain(manifest['name']))}</h1><div class=facts>{boxes}</div>{notes}"
        f"<div class=card><div class='bar tall'>{bars}</div><p class='small key'>{key}</p></div>"
        f"<p class=small>split: {escape(plain(rule))}; fit {spec.fit}, {spec.interpolation}, "
        f"fidelity {spec.fidelity}; fingerprint {manifest['fingerprint']}</p>"
    )


def _balance(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    totals = {label: sum(counts[split][label] for split in SPLITS) for label in manifest["classes"]}
    listed = sorted(totals, key=lambda label: (-totals[label], label))[:CLASSES_LISTED]
    rows = "".join(_balance_row(label, counts, max(totals.values())) for label in listed)
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


def _balance_row(label: str, counts: Mapping[str, Mapping[str, int]], most: int) -> str:
    bars = "".join(
        f'<i class={split} style="width:{100 * counts[split][label] / most:.2f}%"></i>'
        for split in SPLITS
        if counts[split][label]
    )
    numbers = "".join(f"<td class='n split'>{counts[split][label]:,}</td>" for split in SPLITS)
    total = sum(counts[split][label] for split in SPLITS)
    return (
        f"<tr><td class=name>{escape(plain(label))}</td><td class=n>{total:,}</td>{numbers}"
        f"<td class=wide><div class=bar>{bars}</div></td></tr>"
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


def _sheets(manifest: Mapping[str, Any], index: pa.Table, pixels: _Pixels) -> str:
    """A contact sheet of each class: the pictures with the smallest image_ids, as good as random."""
    several = manifest["task"] == MULTI_LABEL
    chosen: dict[str, list[int]] = {label: [] for label in manifest["classes"][:CLASSES_SHOWN]}
    chosen |= {"": []} if several else {}
    each = min(PICTURES_A_CLASS, PICTURES_IN_ALL // len(chosen))
    order = by_image_id(index["image_id"])
    for start in range(0, len(order), ROWS_AT_ONCE):
        numbers = order[start : start + ROWS_AT_ONCE]
        labels = taken(index.select(["label"]), numbers)["label"].to_pylist()
        for number, label in zip(numbers.tolist(), labels, strict=True):
            for name in (names_of(label) or [""]) if several else [label]:
                if name in chosen and len(chosen[name]) < each:
                    chosen[name].append(number)
        if all(len(some) == each for some in chosen.values()):
            break
    parts: list[str] = []
    for label, some in chosen.items():
        if some and sum(map(len, parts)) < SHEETS_BYTES:
            parts.append(_sheet(label, [pixels[number] for number in some]))
    more = len(manifest["classes"]) + several - len(parts)
    return (
        "<h2>Contact sheets</h2><p class=small>some pictures of each class, as the network sees them</p>"
        + "".join(parts)
        + (f"<p>and {more:,} more classes</p>" if more > 0 else "")
    )


def _sheet(label: str, pictures: list[np.ndarray]) -> str:
    """One JPEG holds all thumbnails side by side; each cell shows its part, so that they wrap."""
    strip = Image.new("RGB", (THUMB_PX * len(pictures), THUMB_PX))
    for number, picture in enumerate(pictures):
        strip.paste(_thumb(picture), (number * THUMB_PX, 0))
    parts = [100 * number / max(1, len(pictures) - 1) for number in range(len(pictures))]
    cells = "".join(f'<i style="background-position:{part:.4g}% 0"></i>' for part in parts)
    name = escape(plain(label or "none of them"))
    return (
        f'<div class=card><h3>{name}</h3><div class=sheet role=img aria-label="pictures of {name}" '
        f'style="--s:url({_jpeg_url(strip)})">{cells}</div></div>'
    )


def _near(index: pa.Table, pixels: _Pixels) -> str:
    numbers = np.flatnonzero(pc.starts_with(index["group"], "near-").fill_null(False).to_numpy())  # type: ignore[attr-defined]
    if not len(numbers):
        return ""
    leaders = tied_by(index["group"])
    numbers = numbers[np.argsort(leaders[numbers], kind="stable")]  # group by group
    firsts, counts = np.unique(leaders[numbers], return_counts=True)
    ends = np.cumsum(counts)
    largest = np.argsort(-counts, kind="stable")[:GROUPS_SHOWN].tolist()
    cards = []
    for one in largest:
        group = numbers[ends[one] - counts[one] : ends[one]]
        some = group[:PICTURES_A_GROUP]
        names = taken(index.select(["uri", "split"]), some).to_pylist()
        figures = [
            _figure(pixels[number], name["uri"], name["split"])
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
        f"<h2>Near duplicates</h2><p class=small>{total:,} pictures in {count(len(firsts), 'group')} of "
        f"look-alikes; each group stays in one split</p><div class=groups>{''.join(cards)}</div>"
        + (f"<p>and {count(left, 'more group')}</p>" if left else "")
    )


def _refusals(refused: Sequence[Refusal], raw_dir: Path, spec: DecodeSpec, pool: Crew, timeout_s: float) -> str:
    if not refused:
        return "<h2>Refused</h2><p>Nothing.</p>"
    by_reason: dict[str, list[Refusal]] = {}
    for one in sorted(refused, key=lambda one: (one.reason, one.image_id or "", one.uri)):
        by_reason.setdefault(one.reason, []).append(one)
    shown = {reason: some[:REFUSED_A_REASON] for reason, some in by_reason.items()}
    ids = {
        one.image_id
        for reason, some in shown.items()
        for one in some
        if one.image_id and reason not in _NEVER_SHOWN
    }
    thumbs = _glimpses(sorted(ids), raw_dir, spec, pool, timeout_s)
    parts = []
    for reason, some in shown.items():
        strip = "".join(_figure(thumbs.get(one.image_id or ""), one.uri, one.detail) for one in some)
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


def _glimpses(
    image_ids: Sequence[str], raw_dir: Path, spec: DecodeSpec, pool: Crew, timeout_s: float
) -> dict[str, np.ndarray]:
    """Pixels of pictures that are not in the store, decoded in the workers as far as that goes."""
    if not image_ids:
        return {}
    contents = (content for _, content in raw.read_bytes(raw_dir, image_ids))
    work = partial(_glimpse, spec=spec, timeout_s=timeout_s)
    outcomes = run_all(pool, work, contents, alone=lambda task: [task], ahead=4)
    found = zip(image_ids, (outcome[0] for outcome in outcomes), strict=True)
    return {image_id: pixels for image_id, pixels in found if not isinstance(pixels, Rejected)}


def _glimpse(data: bytes, spec: DecodeSpec, timeout_s: float) -> np.ndarray | Rejected:
    result: np.ndarray | Rejected = run(partial(salvage, spec=spec), [data], timeout_s)[0]
    return result


def _figure(pixels: np.ndarray | None, name: str, note: str) -> str:
    picture = "<div class=none>no picture</div>"
    if pixels is not None:
        picture = f'<img alt="" src="{_jpeg_url(_thumb(pixels))}">'
    return f"<figure>{picture}<figcaption><b>{_short(name)}</b> {_short(note)}</figcaption></figure>"


def _short(text: str) -> str:
    """Escaped, and of a very long text its end: that is where the name of a file stands."""
    text = plain(text)
    return escape(text if len(text) <= 90 else "…" + text[-89:])


def _thumb(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    how = Image.Resampling.NEAREST if pixels.shape[0] <= SMALL_PX else Image.Resampling.BILINEAR
    return picture.resize((THUMB_PX, THUMB_PX), how)


def _jpeg_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
