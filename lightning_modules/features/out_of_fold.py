"""Out-of-fold predictions of the linear probe, kept beside the bundle for the search for label issues.

Each training and validation image is predicted by a head that was fitted without it, so its own label has not
influenced the prediction.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imageset.utils.atomic_write import write_bytes

FILE_NAME = "out_of_fold.parquet"


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Predictions of images by heads that have not seen them.

    Attributes:
        image_ids: of the images.
        logits: float32 (n, K).
        temperature: divisor of the logits.
        thresholds: of the labels, if the dataset is multi-label.
    """

    image_ids: tuple[str, ...]
    logits: np.ndarray
    temperature: float
    thresholds: tuple[float, ...] | None = None

    def save(self, folder: Path) -> None:
        """Write `out_of_fold.parquet` to the folder of a bundle."""
        info = {"temperature": self.temperature, "thresholds": self.thresholds}
        width = self.logits.shape[1]
        logits = pa.FixedSizeListArray.from_arrays(pa.array(self.logits.ravel(), pa.float32()), width)
        table = pa.table({"image_id": pa.array(self.image_ids, pa.string()), "logits": logits})
        table = table.replace_schema_metadata({"calibration": json.dumps(info)})
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd")
        write_bytes(folder / FILE_NAME, file.getvalue())

    @classmethod
    def load(cls, folder: Path) -> "OutOfFoldPredictions | None":
        """Read the predictions in the folder of a bundle; None if the bundle has none."""
        path = folder / FILE_NAME
        if not path.exists():
            return None
        table = pq.read_table(path)
        info = json.loads(table.schema.metadata[b"calibration"])
        column = table["logits"].combine_chunks()
        logits = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
        thresholds = None if info["thresholds"] is None else tuple(info["thresholds"])
        return cls(tuple(table["image_id"].to_pylist()), logits, info["temperature"], thresholds)

    def select(self, image_ids: list[str]) -> np.ndarray | None:
        """Return the logits, float32 (n, K), of these images in their order; None if one of them is missing."""
        position = {image_id: i for i, image_id in enumerate(self.image_ids)}
        rows = [position.get(image_id, -1) for image_id in image_ids]
        return None if -1 in rows else self.logits[np.array(rows, np.int64)]
