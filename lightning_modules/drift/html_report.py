"""The page about a batch: what moved, by how much, and the pictures that show it best."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from imageset.html import page
from lightning_modules.drift.detector import STATISTICS, DriftParams, DriftResult
from lightning_modules.features.reference_sample import ImageSample

if TYPE_CHECKING:
    from lightning_modules.drift.detector import DriftCheck

CHECK_TITLES = {"features": "what the network sees", "classes": "predicted classes", "confidence": "how sure it is",
         "brightness": "brightness", "contrast": "contrast", "short_side_px": "short side, px",
         "rejected": "cannot be read", "abstained": "no answer"}  # fmt: skip
NUM_BINS = 32
MAX_CLASSES = 12  # that changed most
THUMBNAIL_PX, LOSSLESS_PX = 192, 64  # of a picture on the page; a smaller one stays as it is, without loss


def render_drift_page(
    title: str, lead: str, reference: ImageSample, batch: ImageSample, result: DriftResult, params: DriftParams,
    classes: Sequence[str], images: Sequence[tuple[np.ndarray, str]], training_images: Sequence[np.ndarray],
) -> bytes:  # fmt: skip
    """The whole page.

    Args:
        pictures: uint8 (H, W, C) and a caption, the most typical of the batch first.
        of_training: some pictures of the reference, uint8 (H, W, C).
    """
    sections = [_render_checks(result, params)]
    if images:
        sections.append(_render_images(images, training_images, result.drifted))
    if len(batch):
        sections += [_render_statistics(reference, batch, result), _render_classes(reference, batch, classes)]
    return page.render_page(title, lead, sections)


def _render_checks(found: DriftResult, rules: DriftParams) -> str:
    moved = ", ".join(CHECK_TITLES[name] for name in found.moved_checks)
    verdict = f"Moved: {moved}." if moved else "Nothing moved beyond chance."
    lines = [
        ([CHECK_TITLES[check.name], _format_p_value(check.adjusted), check.said], check.moved)
        for check in found.checks
    ]
    how = (
        f"p is the chance of a difference as large as this one between pictures of one source, corrected (Holm) "
        f"for {len(lines)} comparisons; at or below {rules.alpha:g} counts as moved. What the network sees and "
        f"the classes: up to {rules.permutations:,} permutations; numbers: Kolmogorov-Smirnov; shares: Fisher."
    )
    return page.render_section(
        "What moved", verdict, page.render_table(("", "p", "here and in training"), lines), page.render_note(how)
    )


def _render_images(
    pictures: Sequence[tuple[np.ndarray, str]], of_training: Sequence[np.ndarray], drifted: bool
) -> str:
    what = (
        "To the network these look most like the batch and least like the pictures that it was trained on."
        if drifted
        else "No drift; these are the ones that look least like the pictures that the network was trained on."
    )
    parts = [
        page.render_row(
            [page.render_figure(_encode_thumbnail(image), caption) for image, caption in pictures], small=True
        )
    ]
    if of_training:
        figures = [page.render_figure(_encode_thumbnail(image), "") for image in of_training]
        parts += [page.render_heading("some of training"), page.render_row(figures, small=True)]
    return page.render_section("Most typical of the batch", what, *parts)


def _render_statistics(reference: ImageSample, batch: ImageSample, found: DriftResult) -> str:
    check_of = {check.name: check for check in found.checks}
    parts = []
    for name in STATISTICS:
        if name in check_of:
            parts += [
                page.render_heading(_format_heading(check_of[name])),
                _render_histogram(getattr(reference, name), getattr(batch, name)),
            ]
    what = "Grey: the pictures of training. Line: this batch. Each is as high as its highest bar."
    return page.render_section("Numbers of the pictures", what, *parts)


def _format_heading(check: DriftCheck) -> str:
    return f"{CHECK_TITLES[check.name]}{', moved' if check.moved else ''}"


def _render_histogram(before: np.ndarray, now: np.ndarray) -> str:
    both = np.concatenate([before, now]).astype(np.float64)
    low, high = float(both.min()), float(both.max())
    if high <= low:
        return page.render_note(f"all are {_format_number(low)}")
    far = low > 0 and high / low > 20
    scale = np.log if far else np.asarray
    edges = np.linspace(scale(low), scale(high), NUM_BINS + 1)
    shares = [np.histogram(scale(one.astype(np.float64)), edges)[0] / len(one) for one in (before, now)]
    return page.render_histograms(shares[0], shares[1], (_format_number(low), _format_number(high)))


def _render_classes(reference: ImageSample, batch: ImageSample, classes: Sequence[str]) -> str:
    before = np.bincount(reference.classes, minlength=len(classes)) / len(reference)
    now = np.bincount(batch.classes, minlength=len(classes)) / len(batch)
    most = np.argsort(-np.abs(now - before), kind="stable")[:MAX_CLASSES]
    parts = []
    for i in most.tolist():
        parts += [
            page.render_heading(classes[i]),
            page.render_bars([("training", float(before[i])), ("here", float(now[i]))]),
        ]
    return page.render_section("Predicted classes", "Shares of the pictures; those that changed most.", *parts)


def _encode_thumbnail(image: np.ndarray) -> bytes:
    """A picture, uint8 (H, W, C), as a small file: PNG, or JPEG where it is large."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS_PX:
        times = THUMBNAIL_PX // max(picture.size)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _format_p_value(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _format_number(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.3f}"
