"""Find pictures in the artifacts of a project's MLflow runs and models, through MLflow's own API.

Pages and thumbnails are removed. Input examples of a model become grey pictures. A reference sample with a
picture's features leaves the bundle, with a note in its place; see lightning_modules.bundle. Lists
of training pictures lose its row.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from flows.monitoring.batch_log import ids_path, to_short_id
from flows.project.project import Project
from flows.promotion import model_registry
from flows.retention.actions import Action
from flows.retention.byte_search import ByteSearch
from flows.retention.stores.dataset_versions import (
    PAGE_SUFFIX,
    Holdings,
    samples_picture,
    select_rows,
    shows_pictures,
)
from imageset.exceptions import UserError
from imageset.utils.url_credentials import mask_url
from lightning_modules.bundle import FORGOTTEN_NOTE, FORGOTTEN_TEXT, REFERENCE_FILE
from lightning_modules.tracking.client import describe_mlflow_error
from lightning_modules.tracking.tags import (
    DATASET_TAG,
    DRIFT_FOLDER,
    FINGERPRINT_TAG,
    TRAINING_IMAGES_ARTIFACT,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, Run

PLACE = "MLflow's artifacts"
EXAMPLE_WORD = "input_example"  # in the name of each file that holds a model's example pictures
GREY = 128
# A model is served with the code that it was logged with; older code does not know the note that stands in the
# place of a reference.
BUNDLE_MODULE = "lightning_modules/bundle.py"
OLD_CHECK = b"if digest is None and not path.exists():"
NEW_CHECK = f'if not path.exists() and (digest is None or path.with_name("{FORGOTTEN_NOTE}").exists()):'.encode()


@dataclass(frozen=True)
class TrainedModel:
    """A training whose training split had a picture; `version` is None if it was never registered."""

    name: str
    version: int | None
    run_id: str

    def __str__(self) -> str:
        version = "never registered" if self.version is None else f"version {self.version}"
        return f"{self.name} {version} (run {self.run_id[:12]})"


class ArtifactFolder:
    """The artifacts of one run or of one model.

    Args:
        uri: their address.
        label: for messages.
    """

    def __init__(self, uri: str, label: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.uri, self.label = uri, label
        self.repository = get_artifact_repository(uri)

    def iter_paths(self, folder: str | None = None) -> Iterator[str]:
        """Yield the path of each file; nothing if the artifacts are gone."""
        yield from (info.path for info in self._iter_infos(folder))

    def measure(self) -> int:
        """Return the bytes of all files."""
        return sum(int(info.file_size or 0) for info in self._iter_infos(None))

    def _iter_infos(self, folder: str | None) -> Iterator[FileInfo]:
        from mlflow.exceptions import MlflowException

        try:
            infos = self.repository.list_artifacts(folder)
        except (MlflowException, OSError) as error:
            raise UserError(
                f"MLflow's artifacts at {mask_url(self.uri)}: {describe_mlflow_error(error)}"
            ) from None
        for info in infos:
            if info.is_dir:
                yield from self._iter_infos(info.path)
            else:
                yield info

    def clear(self) -> None:
        """Remove all files."""
        self.repository.delete_artifacts()

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self.repository.download_artifacts(path, scratch)).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; a file of this machine is not copied first."""
        local = getattr(self.repository, "artifact_dir", None)
        return (Path(local) / path).open("rb") if local else io.BytesIO(self.read(path))

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.repository.delete_artifacts(path)

    def replace(self, path: str, data: bytes) -> None:
        """Write a file in the place of another."""
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / PurePosixPath(path).name
            file.write_bytes(data)
            parent = PurePosixPath(path).parent.as_posix()
            self.repository.log_artifact(str(file), None if parent == "." else parent)


def find_runs(client: MlflowClient, project: Project) -> list[Run]:
    """Return all runs of the project's dataset, those that were deleted in MLflow, too."""
    from mlflow.entities import ViewType

    names = {project.read_name(), project.read_dataset_name()}
    experiments = [experiment.experiment_id for experiment in client.search_experiments(ViewType.ALL)]
    runs: dict[str, Run] = {}
    for name in sorted(names):
        query, token = f"tags.`{DATASET_TAG}` = '{name}'", None
        while experiments:
            page = client.search_runs(experiments, query, ViewType.ALL, max_results=500, page_token=token)
            runs |= {run.info.run_id: run for run in page}
            if not (token := page.token):
                break
    return list(runs.values())


def iter_models(client: MlflowClient, run: Run) -> Iterator[ArtifactFolder]:
    """Yield the artifacts of the models that a run logged."""
    for model in client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"):
        yield ArtifactFolder(model.artifact_location, f"model of run {run.info.run_id[:12]}")


def find_trained_models(client: MlflowClient, runs: list[Run], image_ids: Collection[str]) -> list[TrainedModel]:
    """Return the trainings that learnt from a picture, as the lists of their training pictures say."""
    found = []
    for run in runs:
        rows = _read_training_rows(ArtifactFolder(run.info.artifact_uri, ""), image_ids)
        if rows:
            name = run.data.tags.get(DATASET_TAG, "")
            version = model_registry.find_version_by_run(client, name, run.info.run_id)
            found.append(TrainedModel(name, version.number if version else None, run.info.run_id))
    return sorted(found, key=lambda model: (model.version or 0, model.run_id))


def _read_training_rows(folder: ArtifactFolder, image_ids: Collection[str]) -> int:
    """Return how many of the pictures are in a run's list of training pictures; 0 without a list."""
    import pyarrow as pa

    if TRAINING_IMAGES_ARTIFACT not in folder.iter_paths(PurePosixPath(TRAINING_IMAGES_ARTIFACT).parent.name):
        return 0
    try:
        return len(select_rows(_read_table(folder.read(TRAINING_IMAGES_ARTIFACT)), image_ids))
    except (KeyError, pa.ArrowException):  # damaged
        return 0


def _read_table(data: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data))


def find_actions(
    client: MlflowClient,
    project: Project,
    runs: list[Run],
    image_ids: Collection[str],
    holdings: Holdings,
    search: ByteSearch,
) -> Iterator[Action]:
    """Yield what has to change in MLflow's artifacts.

    Args:
        client: of the project's MLflow.
        project: the project.
        runs: its runs.
        image_ids: SHA-256 of each picture.
        holdings: what is known of the versions of its dataset.
        search: finds the content of the pictures.
    """
    for run in runs:
        folder = ArtifactFolder(run.info.artifact_uri, f"run {run.info.run_id[:12]}")
        may_show = may_show_pictures(run, holdings)
        for path in folder.iter_paths():
            name = PurePosixPath(path)
            if path == TRAINING_IMAGES_ARTIFACT:
                if _read_training_rows(folder, image_ids):
                    text = "lists of training pictures without its row"
                    yield Action(PLACE, text, partial(_rewrite_training_list, folder, image_ids))
            elif name.parts[0] == DRIFT_FOLDER and name.suffix == PAGE_SUFFIX:
                if shows_batch(project, name.stem, image_ids):
                    yield Action(PLACE, "pages of drift checks are removed", partial(folder.remove, path))
            elif may_show and shows_pictures(name):
                yield Action(PLACE, "pages and thumbnails of runs are removed", partial(folder.remove, path))
        for model in iter_models(client, run):
            yield from _find_model_actions(model, image_ids, search)


def may_show_pictures(run: Run, holdings: Holdings) -> bool:
    """Return whether the pages of a run may show a picture: its dataset holds one, or its index is gone."""
    digests = [entry.dataset.digest for entry in (run.inputs.dataset_inputs if run.inputs else [])]
    if run.data.tags.get(FINGERPRINT_TAG) in holdings.fingerprints or set(digests) & holdings.folders:
        return True
    return not set(digests) & holdings.known


def shows_batch(project: Project, batch: str, image_ids: Collection[str]) -> bool:
    """Return whether a batch of a drift check holds a picture; True if its pictures are not known."""
    import numpy as np

    try:
        ids = np.load(ids_path(project, batch), allow_pickle=False)
    except (OSError, ValueError):
        return True
    return bool(np.isin([to_short_id(image_id, "") for image_id in image_ids], ids).any())


def _rewrite_training_list(folder: ArtifactFolder, image_ids: Collection[str]) -> None:
    folder.replace(TRAINING_IMAGES_ARTIFACT, drop_rows(folder.read(TRAINING_IMAGES_ARTIFACT), image_ids))


def drop_rows(data: bytes, image_ids: Collection[str]) -> bytes:
    """Return a Parquet file without the rows about pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(select_rows(_read_table(data), image_ids, invert=True), buffer, compression="zstd")
    return bytes(buffer.getvalue())


def _find_model_actions(
    folder: ArtifactFolder, image_ids: Collection[str], search: ByteSearch
) -> Iterator[Action]:
    for path in folder.iter_paths():
        name = PurePosixPath(path).name
        if EXAMPLE_WORD in name and name.endswith(".json") and search.is_in_bytes(folder.read(path)):
            yield Action(
                PLACE, "example pictures of models become grey", partial(_grey_examples, folder, path, search)
            )
        elif name == REFERENCE_FILE and samples_picture(folder.read(path), image_ids):
            text = "reference samples leave bundles, whose drift checks end with them"
            yield Action(PLACE, text, partial(_remove_reference, folder, path))


def _remove_reference(folder: ArtifactFolder, path: str) -> None:
    for code in [name for name in folder.iter_paths() if name.endswith(BUNDLE_MODULE)]:
        folder.replace(code, folder.read(code).replace(OLD_CHECK, NEW_CHECK))
    folder.replace(PurePosixPath(path).with_name(FORGOTTEN_NOTE).as_posix(), FORGOTTEN_TEXT)
    folder.remove(path)


def _grey_examples(folder: ArtifactFolder, path: str, search: ByteSearch) -> None:
    folder.replace(path, grey_examples(folder.read(path), search))


def grey_examples(text: bytes, search: ByteSearch) -> bytes:
    """Return a JSON document whose base64 pictures that show a content are grey ones of the same size."""
    return json.dumps(_grey(json.loads(text), search)).encode()


def _grey(value: Any, search: ByteSearch) -> Any:
    if isinstance(value, dict):
        return {key: _grey(inner, search) for key, inner in value.items()}
    if isinstance(value, list):
        return [_grey(inner, search) for inner in value]
    if isinstance(value, str) and search.is_in_bytes(json.dumps([value]).encode()):
        return _make_grey(value)
    return value


def _make_grey(text: str) -> str:
    import base64

    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        grey = Image.new(
            "L" if image.mode == "L" else "RGB", image.size, GREY if image.mode == "L" else (GREY,) * 3
        )
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
