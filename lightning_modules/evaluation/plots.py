"""Plot the results of a test as PNG files: confusion matrix, reliability diagram, galleries of mistakes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imageset.html.images import encode_figure, encode_image, enlarge
from lightning_modules.evaluation.abstention import RiskCoverageCurve
from lightning_modules.evaluation.reliability import ReliabilityBins

TILE_PX, TEXT_PX, GAP_PX, TILES_PER_ROW = 96, 12, 10, 10


def plot_confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """Plot the confusion matrix: colours are shares of the true class, numbers count images."""
    counts = confusion.sum(axis=1)
    most_frequent = f"always {_escape_dollars(classes[counts.argmax()])}: {int(counts.max())}"
    title = f"{int(confusion.diagonal().sum())} of {int(confusion.sum())} test pictures right; {most_frequent}"
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return _plot_table(confusion, share, classes, classes, ("predicted", "actual"), title)


def plot_label_tables(
    counts: np.ndarray, co_counts: np.ndarray, num_labelled: np.ndarray, labels: Sequence[str]
) -> bytes:
    """Plot the predictions of a multi-label model as two tables.

    Args:
        counts: int (C, 4): for each label its true positives, false positives, false negatives, true negatives.
        co_counts: int (C, C): images that have the row's label and for which the column's label was predicted.
        num_labelled: int (C,): images that have each label.
        labels: C names.
    """
    from matplotlib.figure import Figure

    side = min(24.0, 2.5 + 0.45 * len(labels))
    figure = Figure(figsize=(max(4.5, 0.4 * side + 3) + max(side, 4.0), side + 0.5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4, max(4, len(labels))))
    columns = ("true positive", "false positive", "false negative", "true negative")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    _draw_table(left, counts, share, labels, columns, ("", "label"), f"{int(counts[0].sum())} test pictures")
    share = co_counts / np.maximum(num_labelled[:, None], 1)
    _draw_table(
        right, co_counts, share, labels, labels, ("predicted", "actual"), "predictions for pictures with a label"
    )
    return encode_figure(figure)


def plot_reliability(before: ReliabilityBins, after: ReliabilityBins, temperature: float) -> bytes:
    """Plot accuracy over confidence, before and after temperature scaling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    titles = (f"as trained, ECE {before.ece:.3f}", f"temperature {temperature:.2f}, ECE {after.ece:.3f}")
    for axes, bins, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
        filled = bins.count > 0
        width = 1 / len(bins.count)
        axes.bar((np.arange(len(filled)) + 0.5) * width, bins.count / bins.count.max(), width, color="#e3e8ee")
        axes.plot([0, 1], [0, 1], color="#888", linewidth=1)
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o-", color="#3465a4", markersize=4)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", title=title)
        axes.set_aspect("equal")
    return encode_figure(figure)


def plot_risk_coverage(curve: RiskCoverageCurve, abstain_below: float | None) -> bytes:
    """Plot the accuracy of the most confident predictions over their share, and mark the bundle's threshold.

    Args:
        curve: of the test images.
        abstain_below: the bundle's threshold; None: it labels all images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.step(curve.coverage, curve.accuracy, where="pre", color="#3465a4")
    title = f"all pictures: {curve.accuracy[-1]:.4f} right"
    coverage, accuracy = (0.0, None) if abstain_below is None else curve.find_point(abstain_below)
    if accuracy is not None:
        axes.plot([coverage], [accuracy], "o", color="#cc0000")
        title += f"\nabstain_below {abstain_below:g}: {coverage:.0%} answered, {accuracy:.4f} of those right"
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of pictures that get a label",
             ylabel="accuracy of these labels", title=title)  # fmt: skip
    return encode_figure(figure)


def draw_gallery(images: np.ndarray, captions: Sequence[Sequence[str]]) -> bytes:
    """Draw images in rows of ten with lines of text under each; without images, the line "no mistakes".

    Args:
        images: uint8 (n, H, W, 1 or 3).
        captions: the lines under each image, equally many for all.
    """
    font = _load_font()
    lines = max((len(caption) for caption in captions), default=1)
    step = TILE_PX + GAP_PX, TILE_PX + GAP_PX + lines * (TEXT_PX + 3)
    across, down = min(TILES_PER_ROW, max(4, len(images))), max(1, -(-len(images) // TILES_PER_ROW))
    gallery = Image.new("RGB", (across * step[0] + GAP_PX, down * step[1] + GAP_PX), "white")
    pen = ImageDraw.Draw(gallery)
    if not len(images):
        pen.text((GAP_PX, GAP_PX), "no mistakes", fill="black", font=font)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP_PX + number % TILES_PER_ROW * step[0], GAP_PX + number // TILES_PER_ROW * step[1]
        gallery.paste(enlarge(image, TILE_PX), (left, top))
        for row, text in enumerate(caption):
            position = (left, top + TILE_PX + 2 + row * (TEXT_PX + 3))
            pen.text(position, _truncate(text, font, TILE_PX), fill="black", font=font)
    return encode_image(gallery)


def _plot_table(
    counts: np.ndarray,
    share: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    axis_names: tuple[str, str],
    title: str,
) -> bytes:
    from matplotlib.figure import Figure

    size = [min(24.0, 2.5 + 0.45 * len(names)) for names in (columns, rows)]
    figure = Figure(figsize=(max(size[0], 4.0), size[1]), dpi=110, layout="constrained")
    _draw_table(figure.subplots(), counts, share, rows, columns, axis_names, title)
    return encode_figure(figure)


def _draw_table(
    axes: Any,
    counts: np.ndarray,
    share: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    axis_names: tuple[str, str],
    title: str,
) -> None:
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal" if len(rows) == len(columns) else "auto")
    axes.set_xticks(range(len(columns)), [_escape_dollars(name) for name in columns], rotation=90)
    axes.set_yticks(range(len(rows)), [_escape_dollars(name) for name in rows])
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], title=title)
    if len(rows) <= 40:
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)


def _escape_dollars(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib reads text between dollar signs as a formula


def _load_font() -> Any:
    """Load the font that comes with matplotlib: it has more alphabets than Pillow's own."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", TEXT_PX)


def _truncate(text: str, font: Any, width_px: int) -> str:
    while text and font.getlength(text) > width_px:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text
