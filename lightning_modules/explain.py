"""The stage `explain`: what the network sees, as one page and its pictures; on the CPU, the same each time."""

import copy
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imageset.atomic import replacing_folder, write_bytes
from imageset.errors import UserError
from imageset.params import load_params
from imageset.store import ImageStore, StoreSplit
from lightning_modules import calibration, layers, page, several, tiles
from lightning_modules.attribution import (
    ShiftCurve,
    distances,
    grad_cam,
    occlusion,
    predictor,
    shift_curve,
)  # fmt: skip
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Normalize
from lightning_modules.excite import excite, strongest
from lightning_modules.layers import Step, Trace
from lightning_modules.logged import log_files, log_numbers, training_run

KNOWN = {
    "bundle": str, "store": str, "seed": int, "layers": int, "maps": int, "filters": int, "steps": int,
    "answers": int, "shifted": int, "windows": int, "budget_gmacs": (int, float),
}  # fmt: skip
LARGEST_PX = 96  # of the pictures that are made to excite a filter
FEWEST_STEPS = 8  # fewer show noise
TOP = 5  # classes whose probabilities are shown
PATCH_PX = 8  # of the picture that is shown as numbers
FIRST_FILTERS = 64
AT_ONCE = 32  # pictures that go through the network together
SHIFTS = 8  # distances


@dataclass(frozen=True)
class Effort:
    """How much is looked at; a large network gets less, see `affordable`."""

    layers: int
    maps: int
    filters: int
    steps: int
    answers: int
    shifted: int
    windows: int
    seed: int

    @classmethod
    def of(cls, params: dict[str, Any]) -> "Effort":
        """As params.yaml: explain says."""
        for name in ("layers", "maps", "filters", "steps", "shifted", "windows"):
            if params[name] < 1:
                raise UserError(f"params.yaml: explain.{name} is {params[name]}; give 1 or more")
        return cls(**{name: params[name] for name in cls.__dataclass_fields__})

    def affordable(self, macs: int, excite_macs: int, budget: float) -> "Effort":
        """What fits into a budget of multiply-adds: counted, not timed, so that the page is the same everywhere.

        Half is for the pictures that excite filters, a quarter for shifts, a tenth each for the rest.

        Args:
            macs: of one picture through the network.
            excite_macs: of one picture of the size that is made to excite a filter.
            budget: multiply-adds.
        """
        ascents = int(0.5 * budget / (3 * 3 * max(1, excite_macs)))  # three layers; forward and back
        filters = min(self.filters, max(1, ascents // self.steps))
        return Effort(
            layers=self.layers,
            maps=self.maps,
            filters=filters,
            steps=min(self.steps, ascents // filters),
            answers=min(self.answers, int(0.1 * budget / (2 * 3 * max(1, macs)))),
            shifted=min(self.shifted, max(1, int(0.25 * budget / (4 * SHIFTS * max(1, macs))))),
            windows=min(self.windows, max(2, math.isqrt(int(0.1 * budget / max(1, macs))))),
            seed=self.seed,
        )


class Eye:
    """A bundle's network, ready to be looked into: on the CPU, in evaluation mode, nothing done in place."""

    def __init__(self, bundle: Bundle) -> None:
        self.info, self.spec = bundle.info, bundle.spec
        self.network = copy.deepcopy(bundle.network).cpu().eval().requires_grad_(False)
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self.normalize = Normalize(bundle.info.mean, bundle.info.std)
        self.multi_label = bundle.info.multi_label
        self.predict = predictor(self.network, bundle.info.temperature, self.multi_label)

    def input(self, images: np.ndarray) -> Tensor:
        """uint8 (N, H, W, C) -> what the network sees, float32 (N, C, H, W)."""
        x: Tensor = self.normalize(torch.from_numpy(np.require(images, requirements=("C", "W"))))
        return x.contiguous()

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), calibrated."""
        parts = [self.network(self.input(images[i : i + AT_ONCE])) for i in range(0, len(images), AT_ONCE)]
        logits = torch.cat(parts).float().numpy()
        return calibration.probabilities(logits, self.info.temperature, self.multi_label)

    def targets(self, probabilities: np.ndarray) -> list[int]:
        """The classes that are asked about: the best one; of several labels those that are said, the surest first,
        and the likeliest where none is."""
        order = (-probabilities).argsort(kind="stable").tolist()
        if self.info.thresholds is None:
            return order[:1]
        said = several.said(probabilities, self.info.thresholds)
        return [i for i in order if said[i]] or order[:1]

    def trace(self, image: np.ndarray) -> Trace:
        """What each layer makes of one picture, uint8 (H, W, C)."""
        return layers.trace(self.network, self.input(image[None]))

    def excite_px(self) -> int:
        """The side of the pictures that are made to excite a filter: small, where the network takes small ones."""
        if self.spec.size <= LARGEST_PX:
            return self.spec.size
        try:
            layers.trace(self.network, torch.zeros(1, len(self.info.mean), LARGEST_PX, LARGEST_PX))
        except (UserError, RuntimeError, AssertionError):
            return self.spec.size
        return LARGEST_PX


@dataclass
class Report:
    """The page as it grows: its sections, the PNG files beside it, and the curve of the shifts."""

    sections: list[str]
    files: dict[str, bytes]
    shifts: ShiftCurve | None = None

    def figure(self, name: str, png: bytes, caption: str, curve: bool = False) -> str:
        """A picture for the page, kept as a file too."""
        self.files[f"{name}.png"] = png
        return page.figure(png, caption, curve)


def explain(project: Path) -> None:
    """Write `data/models/report/what_the_network_sees.html` and the PNGs in `data/models/report/sees/`.

    Raises:
        UserError: a wrong setting, no bundle, no dataset, or one that was not evaluated.
    """
    params = load_params(project / "params.yaml", "explain", KNOWN)
    bundle = Bundle.load(project / params["bundle"])
    test = ImageStore.open(project / params["store"]).split("test")
    report_folder = project / "data" / "models" / "report"
    right, wrong = answers(report_folder / "predictions.csv", test)
    eye = Eye(bundle)
    example = int((right or wrong)[0])
    image = test.batch(np.array([example]))[0]
    traced, effort = plan(eye, image, params)

    report = Report([], {})
    name = f"{bundle.info.dataset['name']}, {bundle.info.network['class_path'].rpartition('.')[-1]}"
    one_picture(report, eye, image, f"test picture {test.uris[example]}", traced, effort)
    excited(report, eye, traced, effort)
    chosen = {"right": right[: effort.answers], "wrong": wrong[: effort.answers]}
    looked_at(report, eye, traced, test, chosen)
    shifts(report, eye, test.batch(np.arange(len(test))[:: -(-len(test) // effort.shifted)]))

    lead = f"One test picture on its way through the network, and what {len(test):,} test pictures say about it."
    with replacing_folder(report_folder / "sees") as folder:
        for file, content in report.files.items():
            (folder / file).write_bytes(content)
        (folder / "shift.csv").write_text(shift_csv(report.shifts), encoding="utf-8")
    html = report_folder / "what_the_network_sees.html"
    write_bytes(html, page.page(f"What the network sees: {name}", lead, report.sections))
    run = training_run(project, project / params["bundle"])
    log_files(run, [html], "report")
    log_files(run, (report_folder / "sees").iterdir(), "report/sees")
    kept = report.shifts.kept if report.shifts else 0.0
    log_numbers(run, {"shift_kept": kept})
    run.leave()
    print(f"explain: {html.relative_to(project)} written; moved by up to a tenth of the side, pictures keep "
          f"{kept:.1%} of the probability", flush=True)  # fmt: skip


def explain_picture(
    bundle: Bundle, image: np.ndarray, name: str, model: str, params: dict[str, Any]
) -> tuple[bytes, tuple[str, float]]:
    """The page for one picture, uint8 (H, W, C) as the bundle decodes it; what is said of it, and how surely."""
    eye = Eye(bundle)
    traced, effort = plan(eye, image, params)
    report = Report([], {})
    one_picture(report, eye, image, name, traced, effort)
    shifts(report, eye, image[None])
    html = page.page(f"{name}, seen by {model}", "One picture on its way through the network.", report.sections)
    return html, bundle.info.said(eye.probabilities(image[None])[0])


def plan(eye: Eye, image: np.ndarray, params: dict[str, Any]) -> tuple[Trace, Effort]:
    """One pass through the network, and what the budget allows after it."""
    traced = eye.trace(image)
    share = (eye.excite_px() / eye.spec.size) ** 2
    budget = params["budget_gmacs"] * 1e9
    return traced, Effort.of(params).affordable(traced.macs, int(traced.macs * share), budget)


def answers(path: Path, test: StoreSplit) -> tuple[list[int], list[int]]:
    """Positions of test pictures that were named rightly (a middling sure one first), and wrongly (surest first).

    Raises:
        UserError: the bundle was not evaluated, or on another dataset.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run `dvc repro`") from error
    if [row["image_id"] for row in rows] != test.image_ids or not rows:
        raise UserError(f"{path}: not of the test pictures in {test.store.path}; run `dvc repro`")
    sure = [float(row["probability"]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -sure[i])
    right = [i for i in order if rows[i]["actual"] == rows[i]["predicted"]]
    wrong = [i for i in order if rows[i]["actual"] != rows[i]["predicted"]]
    middle = len(right) // 2
    return right[middle:] + right[:middle], wrong


def one_picture(report: Report, eye: Eye, image: np.ndarray, name: str, traced: Trace, effort: Effort) -> None:
    """From pixels to probabilities, and which places counted."""
    report.sections += [
        as_numbers(report, image, name),
        first_filters(report, eye),
        *step_by_step(report, traced.steps, effort),
        said(eye, image),
        where(report, eye, image, traced, effort),
    ]


def as_numbers(report: Report, image: np.ndarray, name: str) -> str:
    """The picture, and a patch of it as numbers."""
    height, width, channels = image.shape
    top, left = (max(0, side // 2 - PATCH_PX // 2) for side in (height, width))
    patch = np.rint(image[top : top + PATCH_PX, left : left + PATCH_PX].mean(axis=2)).astype(np.uint8)
    kind = "one number" if channels == 1 else "three numbers, for red, green and blue"
    return page.section(
        "A picture is numbers",
        f"The network gets {height} x {width} pixels, each {kind} from 0 (dark) to 255 (bright).",
        report.figure("picture", tiles.picture_png(image), f"{name}, {height} x {width} x {channels}"),
        page.note(f"Brightness of the {patch.shape[0]} x {patch.shape[1]} pixels in its middle:"),
        page.numbers(patch),
    )


def first_filters(report: Report, eye: Eye) -> str:
    """The filters of the first convolution."""
    filters = layers.first_filters(eye.network)
    num, _, height, width = filters.shape
    shown = f"; the first {FIRST_FILTERS} are shown" if num > FIRST_FILTERS else ""
    return page.section(
        "Convolution: small filters that were learned",
        f"The first layer slides {num} filters of {height} x {width} numbers over the picture; each answers most "
        "where the picture looks like it.",
        report.figure("first_filters", tiles.filters_png(filters, FIRST_FILTERS),
                      f"{num} filters of {height} x {width}, bright: positive, dark: negative{shown}"),
    )  # fmt: skip


SENTENCES = {
    "convolution": "Each filter makes a feature map: where it answered strongly the map is far from grey.",
    "activation": "The activation lets positive answers through and holds negative ones back; ReLU makes them 0.",
    "pooling": "Pooling keeps one number of each small window: the map shrinks, the pattern stays.",
}
POOLS = {
    "max_pool2d": "maximum", "avg_pool2d": "average", "adaptive_avg_pool2d": "average",
    "adaptive_max_pool2d": "maximum",
}  # fmt: skip


def step_by_step(report: Report, steps: Sequence[Step], effort: Effort) -> list[str]:
    """Feature maps after each convolution, activation and pooling, with their sizes."""
    shown = layers.spread(steps, effort.layers)
    parts = [page.note(sentence) for kind, sentence in SENTENCES.items() if any(s.kind == kind for s in shown)]
    for number, step in enumerate(shown, 1):
        channels, height, width = step.maps.shape
        maps = step.maps.numpy()
        signed = step.kind == "convolution" or bool((maps < 0).any())
        title = f"{number}. {named(step)}: {channels} maps of {height} x {width}"
        scale = "grey is 0, bright above, dark below" if signed else "black is 0"
        first = f"the first {effort.maps} of {channels}; " if channels > effort.maps else ""
        parts.append(page.heading(title))
        file = f"layer_{number:02d}_{step.kind}"
        parts.append(report.figure(file, tiles.maps_png(maps, effort.maps, signed), first + scale))
    more = f" ({len(shown)} of its {len(steps)} such layers are shown)" if len(shown) < len(steps) else ""
    sentence = f"Layer by layer the maps get smaller and more of them: from edges to parts to things{more}."
    return [page.section("Feature maps: convolution, ReLU, pooling", sentence, *parts)]


def named(step: Step) -> str:
    """A layer in the words of an introduction."""
    if step.kind == "convolution":
        return "after convolution"
    if step.kind == "activation":
        return "after ReLU (rectified)" if step.function == "relu" else f"after activation ({step.function})"
    return f"after pooling ({POOLS.get(step.function, step.function)})"


def said(eye: Eye, image: np.ndarray) -> str:
    """The last layers: one probability a class."""
    probabilities = eye.probabilities(image[None])[0]
    best = probabilities.argsort(kind="stable")[::-1][:TOP]
    if eye.info.thresholds is not None:
        said = several.said(probabilities, eye.info.thresholds)
        marks = ("not said, from {:.2f} on", "said, from {:.2f} on")
        return page.section(
            "Fully connected layers and sigmoids: the answer",
            "The last layers weigh all maps together into one number a label, and a sigmoid turns each into a "
            "probability of its own: a picture may bear several labels, or none. A label is said from its own "
            "threshold on, where F1 on the validation pictures was highest.",
            page.bars([
                (f"{eye.info.classes[i]} ({marks[int(said[i])].format(eye.info.thresholds[i])})",
                 float(probabilities[i])) for i in best.tolist()
            ]),
        )  # fmt: skip
    return page.section(
        "Fully connected layers and softmax: the answer",
        "The last layers weigh all maps together into one number a class, and softmax turns these into "
        "probabilities that sum to 1.",
        page.bars([(eye.info.classes[i], float(probabilities[i])) for i in best]),
    )


def where(report: Report, eye: Eye, image: np.ndarray, traced: Trace, effort: Effort) -> str:
    """Grad-CAM and occlusion of one picture."""
    x = eye.input(image[None])
    targets = eye.targets(eye.probabilities(image[None])[0])
    target, name = targets[0], eye.info.classes[targets[0]]
    figures = [page.figure(tiles.picture_png(image), "the picture")]
    found = layers.convolutions(traced.steps)
    for number, one in enumerate(targets[:TOP] if found else (), 1):
        heat = grad_cam(eye.network, found[-1], x, torch.tensor([one]))[0]
        file, caption = f"grad_cam_{number}", f"Grad-CAM: what spoke for {eye.info.classes[one]}"
        figures.append(report.figure(file if number > 1 else "grad_cam", tiles.heat_png(image, heat), caption))
    with torch.no_grad():
        lost = occlusion(eye.predict, x, target, effort.windows, AT_ONCE)
    caption = f"occlusion: yellow where hiding a patch costs {name} probability, blue where it adds some"
    figures.append(report.figure("occlusion", tiles.heat_png(image, lost), caption))
    return page.section(
        "Where it looked",
        "Grad-CAM asks the last convolution which places spoke for the answer; occlusion hides one patch after "
        f"the other and watches the probability fall (here by up to {max(float(lost.max()), 0):.2f}).",
        page.row(figures),
    )


def excited(report: Report, eye: Eye, traced: Trace, effort: Effort) -> None:
    """What excites filters of an early, a middle and a late convolution."""
    found = layers.convolutions(traced.steps)
    if not found or effort.steps < FEWEST_STEPS:
        report.sections.append(page.section(
            "What excites a filter", "Left out: it costs more than explain.budget_gmacs of params.yaml allows."
        ))  # fmt: skip
        return
    maps_of = {step.module: step.maps for step in traced.steps}
    side = eye.excite_px()
    shape = (len(eye.info.mean), side, side)
    parts = []
    places = layers.evenly(len(found), min(3, len(found)))
    for name, place in zip(("early", "middle", "late")[-len(places) :], places, strict=True):
        layer = found[place]
        filters = strongest(maps_of[layer], effort.filters)
        images = excite(eye.network, layer, filters, shape, eye.normalize, effort.steps, effort.seed)
        caption = f"{name}: convolution {place + 1} of {len(found)}, filters {', '.join(map(str, filters))}"
        parts.append(report.figure(f"excites_{name}", tiles.pictures_png(images, 96), caption))
    report.sections.append(page.section(
        "What excites a filter",
        "Pictures made so that one filter answers as strongly as it can: early filters want edges, middle ones "
        "textures, late ones parts of things.",
        *parts,
    ))  # fmt: skip


def looked_at(report: Report, eye: Eye, traced: Trace, test: StoreSplit, chosen: dict[str, list[int]]) -> None:
    """Grad-CAM of right and of wrong answers."""
    found = layers.convolutions(traced.steps)
    if not found:
        return
    parts = []
    for kind, positions in chosen.items():
        parts.append(page.heading(f"{kind} answers"))
        if not positions:
            parts.append(page.note("none"))
            continue
        images = test.batch(np.array(positions))
        probabilities = eye.probabilities(images)
        targets = np.array(
            [of_interest(eye, row, test, i) for row, i in zip(probabilities, positions, strict=True)]
        )
        heat = grad_cam(eye.network, found[-1], eye.input(images), torch.from_numpy(targets))
        figures = []
        for number, (image, one, position) in enumerate(zip(images, heat, positions, strict=True), 1):
            target = int(targets[number - 1])
            caption = f"{eye.info.classes[target]} {probabilities[number - 1, target]:.2f}"
            if kind == "wrong":
                caption += f", is {test.rows['label'][position].as_py() or '(none)'}"
            figures.append(report.figure(f"grad_cam_{kind}_{number}", tiles.heat_png(image, one), caption))
        parts.append(page.row(figures))
    sentence = "Grad-CAM again, over several test pictures: does it look at the thing, or beside it?"
    report.sections.append(page.section("Right and wrong answers", sentence, *parts))


def of_interest(eye: Eye, probabilities: np.ndarray, test: StoreSplit, position: int) -> int:
    """The class to ask about in a test picture: the best one; of several labels the one that is most wrongly said
    or missed, else of those that are said the rarest."""
    if eye.info.thresholds is None:
        return int(probabilities.argmax())
    borne = test.labels[position] > 0
    wrong = several.said(probabilities, eye.info.thresholds) != borne
    if wrong.any():
        return int((abs(probabilities - borne) * wrong).argmax())
    num_borne = test.labels.sum(axis=0, dtype=np.int64)
    return min(eye.targets(probabilities), key=lambda i: int(num_borne[i]))


def shifts(report: Report, eye: Eye, images: np.ndarray) -> None:
    """How the probability moves when pictures are shifted."""
    curve = shift_curve(eye.probabilities, images, distances(eye.spec.size, SHIFTS), eye.info.thresholds)
    report.shifts = curve
    of = "the picture" if len(images) == 1 else f"{len(images)} test pictures"
    percent = [100 * distance / curve.side_px for distance in curve.distances_px]
    png = tiles.curve_png(percent, list(curve.probability), "moved by, % of the side", "probability")
    report.sections.append(page.section(
        "Translation: the same thing, moved",
        f"{of[0].upper()}{of[1:]} moved left, right, up and down, the edge repeated: a network that has learned "
        "what a thing is, and not where, keeps its answer.",
        page.number(f"{curve.kept:.1%}", f"of the probability is kept over shifts of up to {curve.near_px} px "
                    "(a tenth of the side)"),
        report.figure("shift", png, f"probability of what was said of {of} unmoved", curve=True),
    ))  # fmt: skip


def shift_csv(curve: ShiftCurve | None) -> str:
    """One row a distance, for DVC's plot."""
    rows = zip(curve.distances_px, curve.probability, strict=True) if curve else ()
    return "distance_px,probability\n" + "".join(f"{d},{p:.6f}\n" for d, p in rows)
