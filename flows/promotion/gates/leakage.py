"""The gate `unseen`: the champion was trained on no test image, so the comparison means something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project.project import Project
from flows.promotion.gates.gate import Gate
from flows.promotion.model_registry import Version

if TYPE_CHECKING:
    import pyarrow as pa

    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle

logger = console.get_logger(__name__)


def evaluate_leakage(champion: Version, bundle: Bundle, store: ImageStore, project: Project) -> Gate:
    """Check that the champion was not trained on a test image, on one of its group, or on its near duplicate."""
    training_images = load_training_images(champion, bundle, store, project)
    if training_images is None:
        return Gate("unseen", False, f"the training pictures of {champion} are not known; "
                     "inspect the model and promote with --override")  # fmt: skip
    leaked = find_leaked_images(store, training_images)
    if leaked:
        message = (
            f"{champion} was trained on {len(leaked):,} of the test pictures, their group or look-alikes, e.g. "
            f"{leaked[0][:16]}{explain_moves(leaked, training_images)}"
        )
        return Gate("unseen", False, message, {"num_leaks": len(leaked)})
    return Gate("unseen", True, f"{champion} was trained on no test picture", {"num_leaks": 0})


def explain_moves(leaked: list[str], training_images: pa.Table) -> str:
    """Return what to do if the champion's own training images are in the test split now; "" if none is.

    An image moves only when the split is another one: its parameters have changed, or the groups have.
    """
    num = len(set(map(bytes.fromhex, leaked)).intersection(training_images["image_id"].to_pylist()))
    if not num:
        return ""
    return (
        f"; {num:,} of them moved from train to test since, so the split is another one (params.yaml: "
        "normalize.split or near_duplicate_bits): set it back to compare the two, or, if the new split shall "
        "stay, judge the candidate by its own report and promote it once with `convoy promote --override REASON`; "
        "the next models are compared with it again"
    )


def load_training_images(
    champion: Version, bundle: Bundle, store: ImageStore, project: Project
) -> pa.Table | None:
    """Load the table of the champion's training images from its run; use the store if it holds the same data."""
    import pyarrow.parquet as pq
    from mlflow.artifacts import download_artifacts

    from lightning_modules.tracking.model_logging import list_training_images
    from lightning_modules.tracking.tags import TRAINING_IMAGES_ARTIFACT

    if bundle.info.dataset["fingerprint"] == store.fingerprint:
        return list_training_images(store.split("train").rows)
    try:
        return pq.read_table(download_artifacts(run_id=champion.run_id, artifact_path=TRAINING_IMAGES_ARTIFACT))
    except Exception as error:  # each artifact store of MLflow raises its own kinds
        logger.info("promote: %s of run %s cannot be read: %s", TRAINING_IMAGES_ARTIFACT, champion.run_id, error)
        return None


def find_leaked_images(store: ImageStore, training_images: pa.Table, split_name: str = "test") -> list[str]:
    """Return the image_ids of a split that are a training image, share its group, or look exactly like it.

    A near duplicate that is still in the store is in the group of the test image. An image that has left the store
    is known by its perceptual hash alone, so only an equal hash counts.
    """
    rows = store.split(split_name).rows
    in_store = {bytes.fromhex(image_id) for image_id in store.index["image_id"].to_pylist()}
    ids = set(training_images["image_id"].to_pylist())
    groups = {group for group in training_images["group"].to_pylist() if group is not None}
    pairs = zip(training_images["image_id"].to_pylist(), training_images["phash"].to_pylist(), strict=True)
    removed_phashes = {phash for image_id, phash in pairs if image_id not in in_store}
    columns = (rows[name].to_pylist() for name in ("image_id", "group", "phash"))
    return [
        image_id
        for image_id, group, phash in zip(*columns, strict=True)
        if bytes.fromhex(image_id) in ids or group in groups or phash in removed_phashes
    ]
