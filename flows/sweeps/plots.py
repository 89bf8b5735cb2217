"""Plots of a sweep: parallel coordinates of values and results, and the optimization history."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from flows.sweeps.study import VALUES_ATTR, Dimension
from imageset.html.images import encode_figure

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def plot_parallel_coordinates(
    ended: Sequence[FrozenTrial], dimensions: Sequence[Dimension], metric: str, best: int
) -> bytes:
    """Return a PNG with an axis for each key and one for the metric, and a line for each training.

    Each axis covers the range of its key, logarithmically where the space is. The best training is drawn thick,
    pruned ones are dotted.

    Args:
        ended: the trainings that are complete or pruned.
        dimensions: the space.
        metric: name of the metric.
        best: number of the best training.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    values = [trial.value for trial in ended if trial.value is not None and trial.state.name == "COMPLETE"]
    scale_metric = _make_linear_scale(min(values), max(values))
    scales = [_make_scale(dimension) for dimension in dimensions]
    figure = Figure(figsize=(2.2 * (len(dimensions) + 1) + 1, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for trial in sorted(ended, key=lambda trial: trial.number == best):
        heights = [
            scale(trial.user_attrs[VALUES_ATTR][dimension.key])
            for scale, dimension in zip(scales, dimensions, strict=True)
        ]
        if trial.state.name != "COMPLETE" or trial.value is None:
            axes.plot(range(len(heights)), heights, color="#aaa", linewidth=0.7, linestyle=":")
            continue
        height = scale_metric(trial.value)
        width, alpha = (3.0, 1.0) if trial.number == best else (1.0, 0.7)
        axes.plot(
            range(len(heights) + 1),
            [*heights, height],
            color=colormaps["viridis"](height),
            linewidth=width,
            alpha=alpha,
        )
    for column, (scale, dimension) in enumerate(zip(scales, dimensions, strict=True)):
        _draw_axis(axes, column, [(scale(value), _format_tick(value)) for value in _choose_ticks(dimension)])
    ticks = [min(values) + fraction * (max(values) - min(values)) for fraction in (0, 0.5, 1)]
    _draw_axis(axes, len(dimensions), [(scale_metric(value), f"{value:.4g}") for value in ticks])
    names = [dimension.key.removeprefix("train.").replace(".", ".\n") for dimension in dimensions]
    axes.set_xticks(range(len(names) + 1), [*names, metric], fontsize=8)
    axes.set(yticks=[], ylim=(-0.05, 1.05), xlim=(-0.2, len(names) + 0.6))
    for side in axes.spines.values():
        side.set_visible(False)
    return encode_figure(figure)


def plot_optimization_history(ended: Sequence[FrozenTrial], metric: str, minimize: bool) -> bytes:
    """Return a PNG with the result of each training in the order of their start, and the best result so far.

    Args:
        ended: the trainings that are complete or pruned.
        metric: name of the metric.
        minimize: whether a lower value is better.
    """
    from matplotlib.figure import Figure

    complete = [trial for trial in ended if trial.state.name == "COMPLETE"]
    pruned = [trial for trial in ended if trial.state.name == "PRUNED"]
    values = [trial.value for trial in complete if trial.value is not None]
    best = list(accumulate(values, min if minimize else max))
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([trial.number for trial in complete], values, "o", color="#3465a4", label="complete")
    axes.step([trial.number for trial in complete], best, where="post", color="#c4512d", label="best so far")
    last_values = [(trial.number, trial.intermediate_values[max(trial.intermediate_values)]) for trial in pruned
                   if trial.intermediate_values]  # fmt: skip
    if last_values:
        axes.plot(*zip(*last_values, strict=True), "x", color="#999", label="pruned, last value")
    axes.set(xlabel="training", ylabel=metric)
    axes.legend(frameon=False)
    return encode_figure(figure)


def _draw_axis(axes: Any, column: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(column, color="#ccc", linewidth=0.8, zorder=0)
    for height, text in ticks:
        axes.annotate(text, (column, height), xytext=(4, 0), textcoords="offset points", fontsize=7, va="center")


def _make_scale(dimension: Dimension) -> Callable[[Any], float]:
    """Return the function from a value of a dimension to a height from 0 to 1."""
    if dimension.choices:
        num = len(dimension.choices)
        return lambda value: dimension.choices.index(value) / max(1, num - 1)
    if dimension.log:
        inner = _make_linear_scale(math.log(dimension.low), math.log(dimension.high))
        return lambda value: inner(math.log(value))
    return _make_linear_scale(dimension.low, dimension.high)


def _make_linear_scale(low: float, high: float) -> Callable[[float], float]:
    return lambda value: (value - low) / (high - low) if high > low else 0.5


def _choose_ticks(dimension: Dimension) -> list[Any]:
    if dimension.choices:
        return list(dimension.choices)
    low, high = dimension.low, dimension.high
    return [low, math.sqrt(low * high) if dimension.log else (low + high) / 2, high]


def _format_tick(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:30]
