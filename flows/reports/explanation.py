"""`convoy explain`: a page that shows what a trained network sees in one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project.paths import CLASSIFIER, NORMALIZED, PARAMS
from flows.project.project import Project
from flows.promotion import model_registry
from flows.versioning import restoration
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle

logger = console.get_logger(__name__)


def write_explanation(image: Path, run_id: str | None, out: Path | None, project: Project) -> str:
    """Write the page; return a line with the prediction and the path of the page.

    Args:
        image: an image file; it is only read.
        run_id: of the training whose model is used; None for the champion of the dataset in data/normalized, or,
            without a champion, the model in data/models/classifier.
        out: path of the page; None for IMAGE.explained.html in the current folder.
        project: folder with params.yaml.

    Raises:
        UserError: the image cannot be read, the page cannot be written, or there is no such run or no model.
    """
    out = out or Path(f"{image.stem}.explained.html")
    data = read_image_file(image)
    check_output_path(out, image)
    bundle, model = find_bundle(run_id, project)

    from imageset.decoding.decoder import decode
    from imageset.rejections import Rejected
    from lightning_modules.explain.params import load_explain_params
    from lightning_modules.explain.stage import explain_image

    params = load_explain_params(project / PARAMS)
    try:
        pixels = decode(data, bundle.spec)
    except Rejected as rejected:
        raise UserError(f"{image}: {rejected.reason}: {rejected.detail}") from None
    with console.make_progress("explain", logger) as progress:
        page, (label, probability) = explain_image(bundle, pixels, image.name, model, params, progress)
    write_bytes(out, page)
    return f"explain: {model} predicts {label or 'none of its labels'} ({probability:.3f}); {out} written"


def read_image_file(image: Path) -> bytes:
    """Read a file that begins like an image.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    from imageset.decoding.decoder import read_image_header
    from imageset.rejections import Rejected
    from lightning_modules.kernels.page import MAX_PIXELS

    if not image.is_file():
        raise UserError(f"{image}: no such file; give a picture")
    try:
        data = image.read_bytes()
        read_image_header(data, MAX_PIXELS)
    except OSError as error:
        raise UserError(f"{image}: {error.strerror}") from None
    except Rejected as rejected:
        raise UserError(f"{image}: {rejected.reason}: {rejected.detail}") from None
    return data


def check_output_path(out: Path, image: Path) -> None:
    """Raise UserError if the page cannot be written."""
    if out.suffix.lower() != ".html":
        raise UserError(f"{out}: give a file name that ends in .html")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")
    if out.is_dir() or (out.exists() and out.samefile(image)):
        raise UserError(f"{out}: is a folder or the picture itself; give another name with --out")


def find_bundle(run_id: str | None, project: Project) -> tuple[Bundle, str]:
    """Return a bundle and its name in messages: of a run, else the champion, else the last training.

    Raises:
        UserError: there is no such run, it has no model, or there is no model at all.
    """
    from lightning_modules.bundle import Bundle
    from lightning_modules.tracking.model_download import load_bundle

    if run_id is not None:
        client = restoration.open_registry(project, run_id)
        run = model_registry.require_finished_run(client, run_id)
        return load_bundle(model_registry.find_model_uri(run)), f"run {run_id}"
    if (project / NORMALIZED / "dataset.json").is_file():
        client = restoration.open_registry(project)
        version = model_registry.find_champion_version(client, project.read_dataset_name())
        if version is not None:
            return load_bundle(version.uri), str(version)
    if not (project / CLASSIFIER).is_dir():
        raise UserError(f"{CLASSIFIER}: no model yet; train one with `convoy run FOLDER`, or name one with --run")
    return Bundle.load(project / CLASSIFIER), f"the model in {CLASSIFIER}"
