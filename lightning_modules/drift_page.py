"""The page about a batch: what moved, by how much, and the pictures that show it best."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_modules import page
from lightning_modules.drift import STATISTICS, Judgement, Rules
from lightning_modules.reference import Sample

if TYPE_CHECKING:
    from lightning_modules.drift import Check

NAMES = {"features": "what the network sees", "classes": "predicted classes", "confidence": "how sure it is",
         "brightness": "brightness", "contrast": "contrast", "short_side_px": "short side, px",
         "rejected": "cannot be read", "abstained": "no answer"}  # fmt: skip
NUM_BINS = 32
NUM_CLASSES = 12  # that changed most
SIDE_PX, SMALL_PX = 192, 64  # of a picture on the page; a smaller one stays as it is, without loss


def drift_page(
    title: str, lead: str, reference: Sample, batch: Sample, found: Judgement, rules: Rules,
    classes: Sequence[str], pictures: Sequence[tuple[np.ndarray, str]], of_training: Sequence[np.ndarray],
) -> bytes:  # fmt: skip
    """The whole page.

    Args:
        pictures: uint8 (H, W, C) and a caption, the most typical of the batch first.
        of_training: some pictures of the reference, uint8 (H, W, C).
    """
    sections = [_checks(found, rules)]
    if pictures:
        sections.append(_pictures(pictures, of_training, found.drifted))
    if len(batch):
        sections += [_numbers(reference, batch, found), _classes(reference, batch, classes)]
    return page.page(title, lead, sections)


def _checks(found: Judgement, rules: Rules) -> str:
    moved = ", ".join(NAMES[name] for name in found.moved)
    verdict = f"Moved: {moved}." if moved else "Nothing moved beyond chance."
    lines = [([NAMES[check.name], _p(check.adjusted), check.said], check.moved) for check in found.checks]
    how = (
        f"p is the chance of a difference as large as this one between pictures of one source, corrected (Holm) "
        f"for {len(lines)} comparisons; at or below {rules.alpha:g} counts as moved. What the network sees and "
        f"the classes: up to {rules.permutations:,} permutations; numbers: Kolmogorov-Smirnov; shares: Fisher."
    )
    return page.section(
        "What moved", verdict, page.facts(("", "p", "here and in training"), lines), page.note(how)
    )


def _pictures(pictures: Sequence[tuple[np.ndarray, str]], of_training: Sequence[np.ndarray], drifted: bool) -> str:
    what = (
        "To the network these look most like the batch and least like the pictures that it was trained on."
        if drifted
        else "No drift; these are the ones that look least like the pictures that the network was trained on."
    )
    parts = [page.row([page.figure(_file(image), caption) for image, caption in pictures], small=True)]
    if of_training:
        figures = [page.figure(_file(image), "") for image in of_training]
        parts += [page.heading("some of training"), page.row(figures, small=True)]
    return page.section("Most typical of the batch", what, *parts)


def _numbers(reference: Sample, batch: Sample, found: Judgement) -> str:
    check_of = {check.name: check for check in found.checks}
    parts = []
    for name in STATISTICS:
        if name in check_of:
            parts += [
                page.heading(_heading(check_of[name])),
                _histogram(getattr(reference, name), getattr(batch, name)),
            ]
    what = "Grey: the pictures of training. Line: this batch. Each is as high as its highest bar."
    return page.section("Numbers of the pictures", what, *parts)


def _heading(check: Check) -> str:
    return f"{NAMES[check.name]}{', moved' if check.moved else ''}"


def _histogram(before: np.ndarray, now: np.ndarray) -> str:
    both = np.concatenate([before, now]).astype(np.float64)
    low, high = float(both.min()), float(both.max())
    if high <= low:
        return page.note(f"all are {_shown(low)}")
    far = low > 0 and high / low > 20
    scale = np.log if far else np.asarray
    edges = np.linspace(scale(low), scale(high), NUM_BINS + 1)
    shares = [np.histogram(scale(one.astype(np.float64)), edges)[0] / len(one) for one in (before, now)]
    return page.histograms(shares[0], shares[1], (_shown(low), _shown(high)))


def _classes(reference: Sample, batch: Sample, classes: Sequence[str]) -> str:
    before = np.bincount(reference.classes, minlength=len(classes)) / len(reference)
    now = np.bincount(batch.classes, minlength=len(classes)) / len(batch)
    most = np.argsort(-np.abs(now - before), kind="stable")[:NUM_CLASSES]
    parts = []
    for i in most.tolist():
        parts += [page.heading(classes[i]), page.bars([("training", float(before[i])), ("here", float(now[i]))])]
    return page.section("Predicted classes", "Shares of the pictures; those that changed most.", *parts)


def _file(image: np.ndarray) -> bytes:
    """A picture, uint8 (H, W, C), as a small file: PNG, or JPEG where it is large."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    if max(picture.size) <= SMALL_PX:
        times = SIDE_PX // max(picture.size)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((SIDE_PX, SIDE_PX))
        picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _shown(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.3f}"
