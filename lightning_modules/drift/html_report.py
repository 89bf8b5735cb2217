"""Render the drift page of a batch: what moved, by how much, and the images that show it best."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imageset.html.page import Figure, render_page
from lightning_modules.drift.detector import STATISTICS, DriftParams, DriftResult
from lightning_modules.features.reference_sample import ImageSample

if TYPE_CHECKING:
    from lightning_modules.drift.detector import DriftCheck

CHECK_TITLES = {"features": "what the network sees", "classes": "predicted classes", "confidence": "confidence",
         "brightness": "brightness", "contrast": "contrast", "short_side_px": "short side, px",
         "rejected": "cannot be read", "abstained": "no prediction"}  # fmt: skip
NUM_BINS = 32
LOG_SCALE_RATIO = 20  # positive numbers that span more than this are binned on a logarithmic scale
MAX_CLASSES = 12  # that changed most
THUMBNAIL_PX, LOSSLESS_PX = 192, 64  # larger images become JPEG thumbnails, others PNG files with enlarged pixels


def render_drift_page(
    title: str, lead: str, reference: ImageSample, batch: ImageSample, result: DriftResult, params: DriftParams,
    classes: Sequence[str], images: Sequence[tuple[np.ndarray, str]], training_images: Sequence[np.ndarray],
) -> bytes:  # fmt: skip
    """Render the page as an HTML document.

    Args:
        title: the heading.
        lead: one line under it.
        reference: the sample of the training's validation images.
        batch: the sample of the batch; it may be empty.
        result: the comparison of the two.
        params: the parameters of that comparison.
        classes: names, as in the bundle.
        images: uint8 (H, W, C) and a caption, the most typical of the batch first.
        training_images: some images of the reference, uint8 (H, W, C).
    """
    values = {
        "title": title,
        "lead": lead,
        "checks": [_describe_check(check) for check in result.checks],
        "moved": [CHECK_TITLES[name] for name in result.moved_checks],
        "alpha": params.alpha,
        "permutations": params.permutations,
        "drifted": result.drifted,
        "figures": [Figure(_encode_thumbnail(image), caption) for image, caption in images],
        "training_figures": [Figure(_encode_thumbnail(image), "") for image in training_images],
        "statistics": _compare_statistics(reference, batch, result) if len(batch) else None,
        "classes": _compare_classes(reference, batch, classes) if len(batch) else None,
    }
    return render_page("drift.html", values)


def _describe_check(check: DriftCheck) -> dict[str, Any]:
    p = _format_p_value(check.adjusted)
    return {"title": CHECK_TITLES[check.name], "p": p, "text": check.said, "moved": check.moved}


def _compare_statistics(reference: ImageSample, batch: ImageSample, result: DriftResult) -> list[dict[str, Any]]:
    checks = {check.name: check for check in result.checks}
    return [
        {"title": CHECK_TITLES[name], "moved": checks[name].moved}
        | _compute_histograms(getattr(reference, name), getattr(batch, name))
        for name in STATISTICS
        if name in checks
    ]


def _compute_histograms(before: np.ndarray, now: np.ndarray) -> dict[str, Any]:
    """Compute the shares of two samples in the same bins; None for both if all numbers are equal."""
    both = np.concatenate([before, now]).astype(np.float64)
    low, high = float(both.min()), float(both.max())
    edges = {"low": _format_number(low), "high": _format_number(high)}
    if high <= low:
        return edges | {"before": None, "now": None}
    scale = np.log if low > 0 and high / low > LOG_SCALE_RATIO else np.asarray
    bins = np.linspace(scale(low), scale(high), NUM_BINS + 1)
    shares = [
        (np.histogram(scale(sample.astype(np.float64)), bins)[0] / len(sample)).tolist()
        for sample in (before, now)
    ]
    return edges | {"before": shares[0], "now": shares[1]}


def _compare_classes(
    reference: ImageSample, batch: ImageSample, classes: Sequence[str]
) -> list[tuple[str, float, float]]:
    """Return the classes that changed most, with their shares of the reference and of the batch."""
    before = np.bincount(reference.classes, minlength=len(classes)) / len(reference)
    now = np.bincount(batch.classes, minlength=len(classes)) / len(batch)
    order = np.argsort(-np.abs(now - before), kind="stable")[:MAX_CLASSES]
    return [(classes[i], float(before[i]), float(now[i])) for i in order.tolist()]


def _encode_thumbnail(pixels: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W, C), as a small file: PNG, or JPEG if the image is large."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    if max(image.size) <= LOSSLESS_PX:
        factor = THUMBNAIL_PX // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        image.save(buffer, "PNG")
    else:
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _format_p_value(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _format_number(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.3f}"
