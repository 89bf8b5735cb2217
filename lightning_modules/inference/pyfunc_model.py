"""The code of the registered MLflow model: pictures in, label and probability out.

MLflow runs this file when it loads the model (models from code), so nothing is unpickled.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

ROOT_VARIABLE = "CONVOY_PICTURES"  # environment: the folder below which a server may read paths
SERVER_VARIABLE = "__pyfunc_model_path__"  # environment: set by `mlflow models serve` before it loads the model
INPUT_COLUMNS = ("image", "path", "pixels")
OUTPUT_COLUMNS = ("label", "probability", "status", "error")
LABELS_COLUMN = "labels"  # one more, of a model of several labels a picture


class ServedClassifier(PythonModel):
    """One of the columns `image` (bytes of a picture file; base64 in JSON), `path` (of a picture file) or `pixels`
    (0..255, (H, W) or (H, W, 1, 3 or 4)) -> columns `label`, `probability`, `status`, `error`.

    A model of several labels a picture gives their set as `label` ("a|b", "" for none of them), as `probability`
    that of the least sure of its decisions, and in a column `labels` each label of the set with its own.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle that lies among the model's artifacts."""
        from lightning_modules.bundle import Bundle
        from lightning_modules.scoring import Scorer

        self.bundle = Bundle.load(context.artifacts["bundle"])
        self.scorer = Scorer(self.bundle)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row for each picture, in order. `status` is `ok`, `abstained` (not sure enough: no label) or `error`
        (cannot be read, with the reason)."""
        from imageset.decoding.decoder import decode
        from imageset.rejections import Rejected

        rows: list[dict[str, Any]] = []
        for given in model_input.to_dict("records"):
            try:
                image = decode(read_input_row(given), self.bundle.spec)
            except Rejected as rejected:
                error = f"{rejected.reason}: {rejected.detail}"
                rows.append({"label": None, "probability": None, "status": "error", "error": error})
            else:
                rows.append(self._row(self.scorer.probabilities(image[np.newaxis])[0]))
        columns = [*OUTPUT_COLUMNS, LABELS_COLUMN] if self.bundle.info.multi_label else list(OUTPUT_COLUMNS)
        return pd.DataFrame(rows, columns=columns)

    def _row(self, probabilities: np.ndarray) -> dict[str, Any]:
        from imageset.labels import parse_labels

        info = self.bundle.info
        label, probability = info.to_prediction(probabilities)
        if info.abstain_below is not None and probability < info.abstain_below:
            return {"label": None, "probability": probability, "status": "abstained", "error": None}
        row: dict[str, Any] = {"label": label, "probability": probability, "status": "ok", "error": None}
        if info.multi_label:
            each = dict(zip(info.classes, probabilities.tolist(), strict=True))
            row[LABELS_COLUMN] = [{"label": name, "probability": each[name]} for name in parse_labels(label)]
        return row


def read_input_row(given: dict[str, Any]) -> bytes:
    """The bytes of a picture file from one row of the input.

    Raises:
        Rejected: the row names none, or more than one; the path may not or cannot be read; the pixels are none.
    """
    from imageset.rejections import Rejected

    there = [name for name in INPUT_COLUMNS if not _is_missing(given.get(name))]
    if len(there) != 1:
        raise Rejected(
            "unreadable", f"a row needs one of the columns {', '.join(INPUT_COLUMNS)}; it has {len(there)}"
        )
    value = given[there[0]]
    if there[0] == "path":
        return read_allowed_path(str(value))
    if there[0] == "pixels":
        return encode_pixels(value)
    return bytes(value)


def read_allowed_path(path: str) -> bytes:
    """The bytes of a file. Whoever calls a server must not learn what lies on its disks: there, paths are read
    only below the folder that the environment variable CONVOY_PICTURES names.

    Raises:
        Rejected: it may not be read, or cannot.
    """
    from imageset.rejections import Rejected
    from imageset.sources.files import read_file

    allowed = os.environ.get(ROOT_VARIABLE)
    if allowed is None and SERVER_VARIABLE in os.environ:
        raise Rejected(
            "unreadable", f"this server reads no paths; it would below a folder named by {ROOT_VARIABLE}"
        )
    if allowed is not None and not Path(path).resolve().is_relative_to(Path(allowed).resolve()):
        raise Rejected("unreadable", f"only paths below the folder that {ROOT_VARIABLE} names are read")
    try:
        return read_file(Path(path))
    except OSError as error:
        raise Rejected("unreadable", f"{error.strerror or error}") from None


def encode_pixels(pixels: Any) -> bytes:
    """Numbers 0..255, (H, W) or (H, W, 1, 3 or 4), as a PNG file: so they take the way of every picture.

    Raises:
        Rejected: another shape, other numbers.
    """
    import io

    from PIL import Image

    from imageset.rejections import Rejected

    nested = isinstance(pixels, np.ndarray) and pixels.dtype == object
    try:
        array = np.asarray(pixels.tolist() if nested else pixels)
    except ValueError:
        raise Rejected("undecodable", "pixels: the rows are not of one length") from None
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
