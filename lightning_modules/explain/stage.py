"""The stage: read, decode, split, write."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from imageset.exceptions import UserError
from imageset.html import page
from imageset.params import load_params
from imageset.store.reader import ImageStore, StoreSplit
from imageset.utils.atomic_write import replace_folder, write_bytes
from lightning_modules.bundle import Bundle
from lightning_modules.explain.activations import ActivationTrace
from lightning_modules.explain.attribution import ShiftCurve  # fmt: skip
from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.params import KNOWN_PARAMS, ComputeBudget
from lightning_modules.explain.sections import (
    ExplainPage,
    add_activation_maximization,
    add_grad_cam_examples,
    add_image_sections,
    add_shift_curve,
)
from lightning_modules.tracking.metric_logging import log_artifacts, log_final_metrics, open_training_run
from lightning_modules.tracking.tags import EXPLAIN_FOLDER, REPORT_FOLDER


def explain(project: Path) -> None:
    """Write `data/models/report/what_the_network_sees.html` and the PNGs in `data/models/report/sees/`.

    Raises:
        UserError: a wrong setting, no bundle, no dataset, or one that was not evaluated.
    """
    params = load_params(project / "params.yaml", "explain", KNOWN_PARAMS)
    bundle = Bundle.load(project / params["bundle"])
    test = ImageStore.open(project / params["store"]).split("test")
    report_folder = project / "data" / "models" / "report"
    right, wrong = rank_test_predictions(report_folder / "predictions.csv", test)
    eye = InstrumentedModel(bundle)
    example = int((right or wrong)[0])
    image = test.read_batch(np.array([example]))[0]
    traced, effort = plan_budget(eye, image, params)

    report = ExplainPage([], {})
    name = f"{bundle.info.dataset['name']}, {bundle.info.network['class_path'].rpartition('.')[-1]}"
    add_image_sections(report, eye, image, f"test picture {test.uris[example]}", traced, effort)
    add_activation_maximization(report, eye, traced, effort)
    chosen = {"right": right[: effort.answers], "wrong": wrong[: effort.answers]}
    add_grad_cam_examples(report, eye, traced, test, chosen)
    add_shift_curve(report, eye, test.read_batch(np.arange(len(test))[:: -(-len(test) // effort.shifted)]))

    lead = f"One test picture on its way through the network, and what {len(test):,} test pictures say about it."
    with replace_folder(report_folder / "sees") as folder:
        for file, content in report.files.items():
            (folder / file).write_bytes(content)
        (folder / "shift.csv").write_text(format_shift_curve(report.shift_curve), encoding="utf-8")
    html = report_folder / "what_the_network_sees.html"
    write_bytes(html, page.render_page(f"What the network sees: {name}", lead, report.sections))
    run = open_training_run(project, project / params["bundle"])
    log_artifacts(run, [html], REPORT_FOLDER)
    log_artifacts(run, (report_folder / "sees").iterdir(), EXPLAIN_FOLDER)
    kept = report.shift_curve.kept_share if report.shift_curve else 0.0
    log_final_metrics(run, {"shift_kept": kept})
    run.detach()
    print(f"explain: {html.relative_to(project)} written; moved by up to a tenth of the side, pictures keep "
          f"{kept:.1%} of the probability", flush=True)  # fmt: skip


def explain_image(
    bundle: Bundle, image: np.ndarray, name: str, model: str, params: dict[str, Any]
) -> tuple[bytes, tuple[str, float]]:
    """The page for one picture, uint8 (H, W, C) as the bundle decodes it; what is said of it, and how surely."""
    eye = InstrumentedModel(bundle)
    traced, effort = plan_budget(eye, image, params)
    report = ExplainPage([], {})
    add_image_sections(report, eye, image, name, traced, effort)
    add_shift_curve(report, eye, image[None])
    html = page.render_page(
        f"{name}, seen by {model}", "One picture on its way through the network.", report.sections
    )
    return html, bundle.info.to_prediction(eye.probabilities(image[None])[0])


def plan_budget(
    eye: InstrumentedModel, image: np.ndarray, params: dict[str, Any]
) -> tuple[ActivationTrace, ComputeBudget]:
    """One pass through the network, and what the budget allows after it."""
    traced = eye.trace(image)
    share = (eye.maximization_px() / eye.spec.size) ** 2
    budget = params["budget_gmacs"] * 1e9
    return traced, ComputeBudget.from_params(params).fit_to_budget(traced.macs, int(traced.macs * share), budget)


def rank_test_predictions(path: Path, test: StoreSplit) -> tuple[list[int], list[int]]:
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


def format_shift_curve(curve: ShiftCurve | None) -> str:
    """One row a distance, for DVC's plot."""
    rows = zip(curve.distances_px, curve.probability, strict=True) if curve else ()
    return "distance_px,probability\n" + "".join(f"{d},{p:.6f}\n" for d, p in rows)
