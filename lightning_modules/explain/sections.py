"""The stage `explain`: what the network sees, as one page and its pictures; on the CPU, the same each time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imageset.html import page
from imageset.store.reader import StoreSplit
from lightning_modules.calibration import thresholds
from lightning_modules.explain import activations, image_grids
from lightning_modules.explain.activation_maximization import maximize_activation, top_activations
from lightning_modules.explain.activations import ActivationTrace, LayerActivation
from lightning_modules.explain.attribution import (  # fmt: skip
    ShiftCurve,
    choose_shift_distances,
    grad_cam,
    measure_shift_curve,
    occlusion,
)
from lightning_modules.explain.instrumentation import IMAGES_PER_BATCH, InstrumentedModel
from lightning_modules.explain.params import NUM_SHIFTS, ComputeBudget

MIN_ASCENT_STEPS = 8  # fewer show noise
NUM_TOP_CLASSES = 5  # classes whose probabilities are shown
PATCH_PX = 8  # of the picture that is shown as numbers
MAX_FIRST_FILTERS = 64


@dataclass
class ExplainPage:
    """The page as it grows: its sections, the PNG files beside it, and the curve of the shifts."""

    sections: list[str]
    files: dict[str, bytes]
    shift_curve: ShiftCurve | None = None

    def add_figure(self, name: str, png: bytes, caption: str, curve: bool = False) -> str:
        """A picture for the page, kept as a file too."""
        self.files[f"{name}.png"] = png
        return page.render_figure(png, caption, curve)


def add_image_sections(
    report: ExplainPage,
    eye: InstrumentedModel,
    image: np.ndarray,
    name: str,
    traced: ActivationTrace,
    effort: ComputeBudget,
) -> None:
    """From pixels to probabilities, and which places counted."""
    report.sections += [
        render_pixels(report, image, name),
        render_first_filters(report, eye),
        *render_feature_maps(report, traced.activations, effort),
        render_prediction(eye, image),
        render_attribution(report, eye, image, traced, effort),
    ]


def render_pixels(report: ExplainPage, image: np.ndarray, name: str) -> str:
    """The picture, and a patch of it as numbers."""
    height, width, channels = image.shape
    top, left = (max(0, side // 2 - PATCH_PX // 2) for side in (height, width))
    patch = np.rint(image[top : top + PATCH_PX, left : left + PATCH_PX].mean(axis=2)).astype(np.uint8)
    kind = "one number" if channels == 1 else "three numbers, for red, green and blue"
    return page.render_section(
        "A picture is numbers",
        f"The network gets {height} x {width} pixels, each {kind} from 0 (dark) to 255 (bright).",
        report.add_figure("picture", image_grids.draw_image(image), f"{name}, {height} x {width} x {channels}"),
        page.render_note(f"Brightness of the {patch.shape[0]} x {patch.shape[1]} pixels in its middle:"),
        page.render_pixel_values(patch),
    )


def render_first_filters(report: ExplainPage, eye: InstrumentedModel) -> str:
    """The filters of the first convolution."""
    filters = activations.read_first_filters(eye.network)
    num, _, height, width = filters.shape
    shown = f"; the first {MAX_FIRST_FILTERS} are shown" if num > MAX_FIRST_FILTERS else ""
    return page.render_section(
        "Convolution: small filters that were learned",
        f"The first layer slides {num} filters of {height} x {width} numbers over the picture; each answers most "
        "where the picture looks like it.",
        report.add_figure("first_filters", image_grids.draw_filters(filters, MAX_FIRST_FILTERS),
                      f"{num} filters of {height} x {width}, bright: positive, dark: negative{shown}"),
    )  # fmt: skip


KIND_SENTENCES = {
    "convolution": "Each filter makes a feature map: where it answered strongly the map is far from grey.",
    "activation": "The activation lets positive answers through and holds negative ones back; ReLU makes them 0.",
    "pooling": "Pooling keeps one number of each small window: the map shrinks, the pattern stays.",
}
POOLING_NAMES = {
    "max_pool2d": "maximum", "avg_pool2d": "average", "adaptive_avg_pool2d": "average",
    "adaptive_max_pool2d": "maximum",
}  # fmt: skip


def render_feature_maps(report: ExplainPage, steps: Sequence[LayerActivation], effort: ComputeBudget) -> list[str]:
    """Feature maps after each convolution, activation and pooling, with their sizes."""
    shown = activations.select_layers(steps, effort.layers)
    parts = [
        page.render_note(sentence)
        for kind, sentence in KIND_SENTENCES.items()
        if any(s.kind == kind for s in shown)
    ]
    for number, step in enumerate(shown, 1):
        channels, height, width = step.maps.shape
        maps = step.maps.numpy()
        signed = step.kind == "convolution" or bool((maps < 0).any())
        title = f"{number}. {describe_layer(step)}: {channels} maps of {height} x {width}"
        scale = "grey is 0, bright above, dark below" if signed else "black is 0"
        first = f"the first {effort.maps} of {channels}; " if channels > effort.maps else ""
        parts.append(page.render_heading(title))
        file = f"layer_{number:02d}_{step.kind}"
        parts.append(report.add_figure(file, image_grids.draw_feature_maps(maps, effort.maps, signed), first + scale))
    more = f" ({len(shown)} of its {len(steps)} such layers are shown)" if len(shown) < len(steps) else ""
    sentence = f"Layer by layer the maps get smaller and more of them: from edges to parts to things{more}."
    return [page.render_section("Feature maps: convolution, ReLU, pooling", sentence, *parts)]


def describe_layer(step: LayerActivation) -> str:
    """A layer in the words of an introduction."""
    if step.kind == "convolution":
        return "after convolution"
    if step.kind == "activation":
        return "after ReLU (rectified)" if step.function == "relu" else f"after activation ({step.function})"
    return f"after pooling ({POOLING_NAMES.get(step.function, step.function)})"


def render_prediction(eye: InstrumentedModel, image: np.ndarray) -> str:
    """The last layers: one probability a class."""
    probabilities = eye.probabilities(image[None])[0]
    best = probabilities.argsort(kind="stable")[::-1][:NUM_TOP_CLASSES]
    if eye.info.thresholds is not None:
        said = thresholds.apply_thresholds(probabilities, eye.info.thresholds)
        marks = ("not said, from {:.2f} on", "said, from {:.2f} on")
        return page.render_section(
            "Fully connected layers and sigmoids: the answer",
            "The last layers weigh all maps together into one number a label, and a sigmoid turns each into a "
            "probability of its own: a picture may bear several labels, or none. A label is said from its own "
            "threshold on, where F1 on the validation pictures was highest.",
            page.render_bars([
                (f"{eye.info.classes[i]} ({marks[int(said[i])].format(eye.info.thresholds[i])})",
                 float(probabilities[i])) for i in best.tolist()
            ]),
        )  # fmt: skip
    return page.render_section(
        "Fully connected layers and softmax: the answer",
        "The last layers weigh all maps together into one number a class, and softmax turns these into "
        "probabilities that sum to 1.",
        page.render_bars([(eye.info.classes[i], float(probabilities[i])) for i in best]),
    )


def render_attribution(
    report: ExplainPage, eye: InstrumentedModel, image: np.ndarray, traced: ActivationTrace, effort: ComputeBudget
) -> str:
    """Grad-CAM and occlusion of one picture."""
    x = eye.preprocess(image[None])
    targets = eye.choose_targets(eye.probabilities(image[None])[0])
    target, name = targets[0], eye.info.classes[targets[0]]
    figures = [page.render_figure(image_grids.draw_image(image), "the picture")]
    found = activations.find_convolutions(traced.activations)
    for number, one in enumerate(targets[:NUM_TOP_CLASSES] if found else (), 1):
        heat = grad_cam(eye.network, found[-1], x, torch.tensor([one]))[0]
        file, caption = f"grad_cam_{number}", f"Grad-CAM: what spoke for {eye.info.classes[one]}"
        figures.append(
            report.add_figure(file if number > 1 else "grad_cam", image_grids.draw_heat_map(image, heat), caption)
        )
    with torch.no_grad():
        lost = occlusion(eye.predict_proba, x, target, effort.windows, IMAGES_PER_BATCH)
    caption = f"occlusion: yellow where hiding a patch costs {name} probability, blue where it adds some"
    figures.append(report.add_figure("occlusion", image_grids.draw_heat_map(image, lost), caption))
    return page.render_section(
        "Where it looked",
        "Grad-CAM asks the last convolution which places spoke for the answer; occlusion hides one patch after "
        f"the other and watches the probability fall (here by up to {max(float(lost.max()), 0):.2f}).",
        page.render_row(figures),
    )


def add_activation_maximization(
    report: ExplainPage, eye: InstrumentedModel, traced: ActivationTrace, effort: ComputeBudget
) -> None:
    """What excites filters of an early, a middle and a late convolution."""
    found = activations.find_convolutions(traced.activations)
    if not found or effort.steps < MIN_ASCENT_STEPS:
        report.sections.append(page.render_section(
            "What excites a filter", "Left out: it costs more than explain.budget_gmacs of params.yaml allows."
        ))  # fmt: skip
        return
    maps_of = {step.module: step.maps for step in traced.activations}
    side = eye.maximization_px()
    shape = (len(eye.info.mean), side, side)
    parts = []
    places = activations.pick_evenly(len(found), min(3, len(found)))
    for name, place in zip(("early", "middle", "late")[-len(places) :], places, strict=True):
        layer = found[place]
        filters = top_activations(maps_of[layer], effort.filters)
        images = maximize_activation(eye.network, layer, filters, shape, eye.normalize, effort.steps, effort.seed)
        caption = f"{name}: convolution {place + 1} of {len(found)}, filters {', '.join(map(str, filters))}"
        parts.append(report.add_figure(f"excites_{name}", image_grids.draw_images(images, 96), caption))
    report.sections.append(page.render_section(
        "What excites a filter",
        "Pictures made so that one filter answers as strongly as it can: early filters want edges, middle ones "
        "textures, late ones parts of things.",
        *parts,
    ))  # fmt: skip


def add_grad_cam_examples(
    report: ExplainPage,
    eye: InstrumentedModel,
    traced: ActivationTrace,
    test: StoreSplit,
    chosen: dict[str, list[int]],
) -> None:
    """Grad-CAM of right and of wrong answers."""
    found = activations.find_convolutions(traced.activations)
    if not found:
        return
    parts = []
    for kind, positions in chosen.items():
        parts.append(page.render_heading(f"{kind} answers"))
        if not positions:
            parts.append(page.render_note("none"))
            continue
        images = test.read_batch(np.array(positions))
        probabilities = eye.probabilities(images)
        targets = np.array(
            [choose_target_class(eye, row, test, i) for row, i in zip(probabilities, positions, strict=True)]
        )
        heat = grad_cam(eye.network, found[-1], eye.preprocess(images), torch.from_numpy(targets))
        figures = []
        for number, (image, one, position) in enumerate(zip(images, heat, positions, strict=True), 1):
            target = int(targets[number - 1])
            caption = f"{eye.info.classes[target]} {probabilities[number - 1, target]:.2f}"
            if kind == "wrong":
                caption += f", is {test.rows['label'][position].as_py() or '(none)'}"
            figures.append(
                report.add_figure(f"grad_cam_{kind}_{number}", image_grids.draw_heat_map(image, one), caption)
            )
        parts.append(page.render_row(figures))
    sentence = "Grad-CAM again, over several test pictures: does it look at the thing, or beside it?"
    report.sections.append(page.render_section("Right and wrong answers", sentence, *parts))


def choose_target_class(eye: InstrumentedModel, probabilities: np.ndarray, test: StoreSplit, position: int) -> int:
    """The class to ask about in a test picture: the best one; of several labels the one that is most wrongly said
    or missed, else of those that are said the rarest."""
    if eye.info.thresholds is None:
        return int(probabilities.argmax())
    borne = test.labels[position] > 0
    wrong = thresholds.apply_thresholds(probabilities, eye.info.thresholds) != borne
    if wrong.any():
        return int((abs(probabilities - borne) * wrong).argmax())
    num_borne = test.labels.sum(axis=0, dtype=np.int64)
    return min(eye.choose_targets(probabilities), key=lambda i: int(num_borne[i]))


def add_shift_curve(report: ExplainPage, eye: InstrumentedModel, images: np.ndarray) -> None:
    """How the probability moves when pictures are shifted."""
    curve = measure_shift_curve(
        eye.probabilities, images, choose_shift_distances(eye.spec.size, NUM_SHIFTS), eye.info.thresholds
    )
    report.shift_curve = curve
    of = "the picture" if len(images) == 1 else f"{len(images)} test pictures"
    percent = [100 * distance / curve.side_px for distance in curve.distances_px]
    png = image_grids.plot_curve(percent, list(curve.probability), "moved by, % of the side", "probability")
    report.sections.append(page.render_section(
        "Translation: the same thing, moved",
        f"{of[0].upper()}{of[1:]} moved left, right, up and down, the edge repeated: a network that has learned "
        "what a thing is, and not where, keeps its answer.",
        page.render_key_number(f"{curve.kept_share:.1%}", f"of the probability is kept over shifts of up to {curve.near_px} px "
                    "(a tenth of the side)"),
        report.add_figure("shift", png, f"probability of what was said of {of} unmoved", curve=True),
    ))  # fmt: skip
