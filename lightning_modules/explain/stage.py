"""Write the explain page: of a trained model and its test images, or of one image."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from imageset.exceptions import UserError
from imageset.html.page import render_page
from imageset.store.reader import ImageStore, StoreSplit
from imageset.utils.atomic_write import replace_folder, write_bytes
from lightning_modules.bundle import Bundle
from lightning_modules.explain.activations import ActivationTrace
from lightning_modules.explain.attribution import ShiftCurve
from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.params import ComputeBudget, load_explain_params
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
    """Write `data/models/report/what_the_network_sees.html` and the PNG files in `data/models/report/sees/`.

    Raises:
        UserError: a setting is wrong, or there is no bundle, no dataset or no evaluation of the bundle.
    """
    params = load_explain_params(project / "params.yaml")
    bundle = Bundle.load(project / params["bundle"])
    test = ImageStore.open(project / params["store"]).split("test")
    report_folder = project / "data" / "models" / "report"
    right, wrong = rank_test_predictions(report_folder / "predictions.csv", test)
    model = InstrumentedModel(bundle)
    example = int((right or wrong)[0])
    image = test.read_batch(np.array([example]))[0]
    trace, budget = plan_budget(model, image, params)

    page = ExplainPage()
    add_image_sections(page, model, image, f"test picture {test.uris[example]}", trace, budget)
    add_activation_maximization(page, model, trace, budget)
    chosen = {"right": right[: budget.answers], "wrong": wrong[: budget.answers]}
    add_grad_cam_examples(page, model, trace, test, chosen)
    add_shift_curve(page, model, test.read_batch(np.arange(len(test))[:: -(-len(test) // budget.shifted)]))

    with replace_folder(report_folder / "sees") as folder:
        for name, content in page.files.items():
            (folder / name).write_bytes(content)
        (folder / "shift.csv").write_text(format_shift_curve(page.shift_curve), encoding="utf-8")
    name = f"{bundle.info.dataset['name']}, {bundle.info.network['class_path'].rpartition('.')[-1]}"
    lead = f"One test picture on its way through the network, and what {len(test):,} test pictures say about it."
    html = report_folder / "what_the_network_sees.html"
    write_bytes(html, render_explain_page(f"What the network sees: {name}", lead, page))
    run = open_training_run(project, project / params["bundle"])
    log_artifacts(run, [html], REPORT_FOLDER)
    log_artifacts(run, (report_folder / "sees").iterdir(), EXPLAIN_FOLDER)
    kept_share = page.shift_curve.kept_share if page.shift_curve else 0.0
    log_final_metrics(run, {"shift_kept": kept_share})
    run.detach()
    print(f"explain: {html.relative_to(project)} written; moved by up to a tenth of the side, pictures keep "
          f"{kept_share:.1%} of the probability", flush=True)  # fmt: skip


def explain_image(
    bundle: Bundle, image: np.ndarray, name: str, model_name: str, params: dict[str, Any]
) -> tuple[bytes, tuple[str, float]]:
    """Explain the prediction for one image, uint8 (H, W, C) as the bundle decodes it.

    Returns:
        The page, and the predicted label with its probability.
    """
    model = InstrumentedModel(bundle)
    trace, budget = plan_budget(model, image, params)
    page = ExplainPage()
    add_image_sections(page, model, image, name, trace, budget)
    add_shift_curve(page, model, image[None])
    html = render_explain_page(
        f"{name}, seen by {model_name}", "One picture on its way through the network.", page
    )
    return html, bundle.info.to_prediction(model.probabilities(image[None])[0])


def render_explain_page(title: str, lead: str, page: ExplainPage) -> bytes:
    """Render the page as an HTML document."""
    return render_page("explain.html", {"title": title, "lead": lead, **page.sections})


def plan_budget(
    model: InstrumentedModel, image: np.ndarray, params: dict[str, Any]
) -> tuple[ActivationTrace, ComputeBudget]:
    """Run one image through the network, and compute what the budget allows after that."""
    trace = model.trace(image)
    share = (model.maximization_px() / model.spec.size) ** 2
    budget = params["budget_gmacs"] * 1e9
    return trace, ComputeBudget.from_params(params).fit_to_budget(trace.macs, int(trace.macs * share), budget)


def rank_test_predictions(path: Path, test: StoreSplit) -> tuple[list[int], list[int]]:
    """Rank the test images by the confidence of their prediction.

    Args:
        path: predictions.csv of the stage `evaluate`.
        test: the test split.

    Returns:
        Positions of the correct predictions, one of middling confidence first, and of the wrong ones, the most
        confident first.

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
    confidence = [float(row["probability"]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -confidence[i])
    right = [i for i in order if rows[i]["actual"] == rows[i]["predicted"]]
    wrong = [i for i in order if rows[i]["actual"] != rows[i]["predicted"]]
    middle = len(right) // 2
    return right[middle:] + right[:middle], wrong


def format_shift_curve(curve: ShiftCurve | None) -> str:
    """Format the curve as CSV for DVC's plot, one row for each distance."""
    rows = zip(curve.distances_px, curve.probability, strict=True) if curve else ()
    return "distance_px,probability\n" + "".join(f"{d},{p:.6f}\n" for d, p in rows)
