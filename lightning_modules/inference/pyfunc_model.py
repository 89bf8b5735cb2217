"""The code of the registered MLflow model: images in, label and probability out.

MLflow runs this file when it loads the model (models from code), so nothing is unpickled.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

ROOT_VARIABLE = "CONVOY_PICTURES"  # environment variable: the folder below which a server may read paths
# Environment variable that `mlflow models serve` sets before it loads the model. Private API, read in mlflow
# 3.17.2: mlflow.pyfunc.scoring_server._SERVER_MODEL_PATH.
SERVER_VARIABLE = "__pyfunc_model_path__"
INPUT_COLUMNS = ("image", "path", "pixels")
OUTPUT_COLUMNS = ("label", "probability", "status", "error")
LABELS_COLUMN = "labels"  # an additional output column of multi-label models


class ServedClassifier(PythonModel):
    """A classifier with the interface of MLflow's Python models.

    Each input row has one of the columns `image` (bytes of an image file; base64 in JSON), `path` (of an image
    file) or `pixels` (0..255, (H, W) or (H, W, 1, 3 or 4)). The output columns are `label`, `probability`,
    `status` and `error`.

    A multi-label model returns the set of labels as `label` ("a|b", "" for no label) and the probability of its
    least confident decision as `probability`; a column `labels` holds each label of the set with its own
    probability.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle from the model's artifacts."""
        from lightning_modules.bundle import Bundle
        from lightning_modules.scoring import Scorer

        self.bundle = Bundle.load(context.artifacts["bundle"])
        self.scorer = Scorer(self.bundle)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a row for each image, in order.

        `status` is `ok`, `abstained` (confidence below the threshold, no label) or `error` (the image cannot be
        read; `error` holds the reason).
        """
        from imageset.decoding.decoder import decode
        from imageset.rejections import Rejected

        rows: list[dict[str, Any]] = []
        for row in model_input.to_dict("records"):
            try:
                image = decode(read_input_row(row), self.bundle.spec)
            except Rejected as rejected:
                error = f"{rejected.reason}: {rejected.detail}"
                rows.append({"label": None, "probability": None, "status": "error", "error": error})
            else:
                rows.append(self._make_row(self.scorer.probabilities(image[np.newaxis])[0]))
        columns = [*OUTPUT_COLUMNS, LABELS_COLUMN] if self.bundle.info.multi_label else list(OUTPUT_COLUMNS)
        return pd.DataFrame(rows, columns=columns)

    def _make_row(self, probabilities: np.ndarray) -> dict[str, Any]:
        from imageset.labels import parse_labels

        info = self.bundle.info
        label, probability = info.to_prediction(probabilities)
        if info.abstain_below is not None and probability < info.abstain_below:
            return {"label": None, "probability": probability, "status": "abstained", "error": None}
        row: dict[str, Any] = {"label": label, "probability": probability, "status": "ok", "error": None}
        if info.multi_label:
            by_class = dict(zip(info.classes, probabilities.tolist(), strict=True))
            row[LABELS_COLUMN] = [{"label": name, "probability": by_class[name]} for name in parse_labels(label)]
        return row


def read_input_row(row: dict[str, Any]) -> bytes:
    """Return the bytes of an image file from a row of the input.

    Raises:
        Rejected: the row does not have exactly one of the input columns, its path must not or cannot be read, or
            its pixels are invalid.
    """
    from imageset.rejections import Rejected

    columns = [name for name in INPUT_COLUMNS if not _is_missing(row.get(name))]
    if len(columns) != 1:
        raise Rejected(
            "unreadable", f"a row needs one of the columns {', '.join(INPUT_COLUMNS)}; it has {len(columns)}"
        )
    value = row[columns[0]]
    if columns[0] == "path":
        return read_allowed_path(str(value))
    if columns[0] == "pixels":
        return encode_pixels(value)
    return bytes(value)


def read_allowed_path(path: str) -> bytes:
    """Return the bytes of a file, if the path is allowed.

    A server reads paths only below the folder that the environment variable CONVOY_PICTURES names, because its
    callers must not explore its disks.

    Raises:
        Rejected: the file must not be read, or cannot.
    """
    from imageset.rejections import Rejected
    from imageset.sources.files import read_file

    allowed = os.environ.get(ROOT_VARIABLE)
    if allowed is None and SERVER_VARIABLE in os.environ:
        raise Rejected(
            "unreadable", f"this server reads no paths; to allow a folder, set {ROOT_VARIABLE} on the server"
        )
    if allowed is not None and not Path(path).resolve().is_relative_to(Path(allowed).resolve()):
        raise Rejected("unreadable", f"only paths below the folder that {ROOT_VARIABLE} names are read")
    try:
        return read_file(Path(path))
    except OSError as error:
        raise Rejected("unreadable", f"{error.strerror or error}") from None


def encode_pixels(pixels: Any) -> bytes:
    """Encode numbers 0..255, (H, W) or (H, W, 1, 3 or 4), as a PNG file, to be decoded like every other image.

    Raises:
        Rejected: the shape or the numbers are different.
    """
    import io

    from PIL import Image

    from imageset.rejections import Rejected

    nested = isinstance(pixels, np.ndarray) and pixels.dtype == object
    try:
        array = np.asarray(pixels.tolist() if nested else pixels)
    except ValueError:
        raise Rejected("undecodable", "pixels: the rows differ in length") from None
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise Rejected("undecodable", f"pixels: shape {array.shape}; (H, W) or (H, W, 1, 3 or 4) is needed")
    if array.dtype.kind not in "uif" or not ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
        raise Rejected("undecodable", "pixels: whole numbers from 0 to 255 are needed")
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


set_model(ServedClassifier())
