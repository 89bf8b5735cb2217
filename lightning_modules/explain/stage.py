"""Write the explain page: of a trained model and its test images, or of one image."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imageset.exceptions import UserError
from imageset.html.page import render_page
from imageset.store.reader import ImageStore, StoreSplit
from imageset.utils.atomic_write import replace_folder, write_bytes
from imageset.utils.file_lock import output_lock
from imageset.utils.progress import Progress, SilentProgress
from lightning_modules.bundle import Bundle
from lightning_modules.explain.activations import ActivationTrace
from lightning_modules.explain.instrumentation import InstrumentedModel
from lightning_modules.explain.params import ComputeBudget, load_explain_params
from lightning_modules.explain.sections.filters import describe_first_filters, describe_strongest
from lightning_modules.explain.sections.heat_maps import describe_attribution, describe_examples
from lightning_modules.explain.sections.layers import describe_feature_maps, describe_network
from lightning_modules.explain.sections.page import ExplainPage
from lightning_modules.explain.sections.pixels import describe_pixels, describe_worked_convolution
from lightning_modules.explain.sections.prediction import describe_prediction
from lightning_modules.explain.sections.shifts import LabelledImages, add_dense_network, describe_shifts
from lightning_modules.explain.sections.training_loop import HISTORY_FILE, describe_training
from lightning_modules.explain.translation import DENSE_IMAGES, ShiftCurve
from lightning_modules.networks.registry import get_display_name
from lightning_modules.tracking.metric_logging import log_artifacts, log_final_metrics, open_training_run
from lightning_modules.tracking.tags import EXPLAIN_FOLDER, REPORT_FOLDER

NUM_IMAGE_SECTIONS, NUM_DATASET_SECTIONS = 7, 3  # of the page, for the progress bar


def explain(project: Path) -> None:
    """Write `data/models/report/what_the_network_sees.html` and the PNG files in `data/models/report/sees/`.

    Raises:
        UserError: a setting is wrong, or there is no bundle, no dataset or no evaluation of the bundle.
    """
    params = load_explain_params(project / "params.yaml")
    bundle = Bundle.load(project / params["bundle"])
    store = ImageStore.open(project / params["store"])
    test = store.split("test")
    report_folder = project / "data" / "models" / "report"
    right, wrong = rank_test_predictions(report_folder / "predictions.csv", test)
    model = InstrumentedModel(bundle)
    example = int((right or wrong)[0])
    image = test.read_batch(np.array([example]))[0]
    trace, budget = plan_budget(model, image, params)

    page = ExplainPage()
    chosen = {"right": right[: budget.answers], "wrong": wrong[: budget.answers]}
    with Progress("explain", unit="sections") as progress:
        progress.begin(NUM_IMAGE_SECTIONS + NUM_DATASET_SECTIONS)
        add_image_sections(page, model, image, f"test picture {test.uris[example]}", trace, budget, progress)
        curves = add_dataset_sections(page, model, store, trace, chosen, budget, progress)
    history = project / params["bundle"] / HISTORY_FILE
    val_labels = store.split("val").labels
    page.sections["training"] = describe_training(page, bundle.info, history, project / "params.yaml", val_labels)

    name = f"{bundle.info.dataset['name']}, {get_display_name(bundle.info.network)}"
    lead = f"One test picture on its way through the network, and what {len(test):,} test pictures say about it."
    html = report_folder / "what_the_network_sees.html"
    with output_lock(report_folder, lambda line: print(f"explain: {line}", flush=True)):
        with replace_folder(report_folder / "sees") as folder:
            for file_name, content in page.files.items():
                (folder / file_name).write_bytes(content)
            (folder / "shift.csv").write_text(format_shift_curves(*curves), encoding="utf-8")
        write_bytes(html, render_explain_page(f"What the network sees: {name}", lead, page))
    run = open_training_run(project, project / params["bundle"])
    log_artifacts(run, [html], REPORT_FOLDER)
    log_artifacts(run, (report_folder / "sees").iterdir(), EXPLAIN_FOLDER)
    log_final_metrics(run, {"shift_consistency": curves[0].consistency})
    run.detach()
    print(f"explain: {html.relative_to(project)} written; {curves[0].consistency:.1%} of the predictions stay the "
          "same when pictures move by up to a tenth of the side", flush=True)  # fmt: skip


def explain_image(
    bundle: Bundle,
    image: np.ndarray,
    name: str,
    model_name: str,
    params: dict[str, Any],
    progress: Progress | None = None,
) -> tuple[bytes, tuple[str, float]]:
    """Explain the prediction for one image, uint8 (H, W, C) as the bundle decodes it.

    Returns:
        The page, and the predicted label with its probability.
    """
    model = InstrumentedModel(bundle)
    trace, budget = plan_budget(model, image, params)
    page, progress = ExplainPage(), progress or SilentProgress()
    progress.begin(NUM_IMAGE_SECTIONS + 1, unit="sections")
    add_image_sections(page, model, image, name, trace, budget, progress)
    page.sections["shift"], _ = describe_shifts(page, model, image[None])
    progress.end()
    html = render_explain_page(
        f"{name}, seen by {model_name}", "One picture on its way through the network.", page
    )
    return html, bundle.info.to_prediction(model.probabilities(image[None])[0])


def add_image_sections(
    page: ExplainPage,
    model: InstrumentedModel,
    image: np.ndarray,
    name: str,
    trace: ActivationTrace,
    budget: ComputeBudget,
    progress: Progress,
) -> None:
    """Add the sections on one image, from its pixels to the places that decided the prediction."""
    sections: dict[str, Callable[[], Any]] = {
        "pixels": lambda: describe_pixels(page, model, image, name),
        "worked": lambda: describe_worked_convolution(page, model, image, trace),
        "first_filters": lambda: describe_first_filters(page, trace, budget.seed),
        "network": lambda: describe_network(model, image, trace),
        "feature_maps": lambda: describe_feature_maps(page, trace.activations, budget),
        "prediction": lambda: describe_prediction(model, image),
        "attribution": lambda: describe_attribution(page, model, image, trace, budget),
    }
    assert len(sections) == NUM_IMAGE_SECTIONS
    for section, describe in sections.items():
        page.sections[section] = describe()
        progress.advance()


def add_dataset_sections(
    page: ExplainPage,
    model: InstrumentedModel,
    store: ImageStore,
    trace: ActivationTrace,
    chosen: dict[str, list[int]],
    budget: ComputeBudget,
    progress: Progress,
) -> tuple[ShiftCurve, ShiftCurve]:
    """Add the sections on many images of a dataset; `chosen` holds positions of right and wrong test predictions.

    Returns:
        The accuracy over the distance that test images are moved, of the network and of a fully connected one.
    """
    train, test = store.split("train"), store.split("test")
    searched = read_sample(train, budget.searched)
    page.sections["strongest"] = describe_strongest(page, model, trace, *searched, budget)
    page.sections["num_searched"] = len(searched[0])
    progress.advance()
    page.sections["examples"] = describe_examples(page, model, trace, test, chosen, budget)
    progress.advance()
    moved = read_sample(test, budget.shifted)
    section, curve = describe_shifts(page, model, *moved)
    page.sections["shift"] = section
    progress.advance()
    dense = add_dense_network(page, section, curve, model, moved, read_sample(train, DENSE_IMAGES), budget.seed)
    return curve, dense


def read_sample(split: StoreSplit, count: int) -> LabelledImages:
    """Return at most `count` images of a split and their labels, spread evenly over it."""
    positions = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)
    return split.read_batch(positions), split.labels[positions]


def render_explain_page(title: str, lead: str, page: ExplainPage) -> bytes:
    """Render the page as an HTML document."""
    empty = {"strongest": None, "num_searched": 0, "examples": None, "training": None}
    return render_page("explain.html", {"title": title, "lead": lead, **empty, **page.sections})


def plan_budget(
    model: InstrumentedModel, image: np.ndarray, params: dict[str, Any]
) -> tuple[ActivationTrace, ComputeBudget]:
    """Run one image through the network, and compute what the budget allows after that."""
    trace = model.trace(image)
    share = (model.maximization_px() / model.spec.size) ** 2
    budget = params["budget_gmacs"] * 1e9
    return trace, ComputeBudget.from_params(params).fit_to_budget(
        trace.macs, int(trace.macs * share), budget, model.num_passes
    )


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


def format_shift_curves(network: ShiftCurve, dense: ShiftCurve) -> str:
    """Format the curves of both networks as CSV for DVC's plot, one row for each distance."""
    rows = zip(
        network.distances_px, network.accuracy, dense.accuracy, network.same, network.probability, strict=True
    )
    return "distance_px,accuracy,fully_connected_accuracy,same_prediction,probability\n" + "".join(
        f"{distance},{accuracy:.6f},{of_dense:.6f},{same:.6f},{probability:.6f}\n"
        for distance, accuracy, of_dense, same, probability in rows
    )
