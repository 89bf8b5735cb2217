"""The code of the registered MLflow model: picture bytes in, label and probability out.

MLflow runs this file when it loads the model (models from code), so nothing is unpickled.
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedClassifier(PythonModel):
    """Column `image` (file bytes of a picture) -> columns `label`, `probability`, `status`, `error`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle that lies among the model's artifacts."""
        from lightning_modules.bundle import Bundle
        from lightning_modules.scoring import Scorer

        self.bundle = Bundle.load(context.artifacts["bundle"])
        self.scorer = Scorer(self.bundle)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row for each picture, in order; one that cannot be read has status `error` and the reason."""
        from imageset.decode import Rejected, decode

        rows: list[dict[str, Any]] = []
        for data in model_input["image"]:
            try:
                image = decode(data, self.bundle.spec)
            except Rejected as rejected:
                error = f"{rejected.reason}: {rejected.detail}"
                rows.append({"label": None, "probability": None, "status": "error", "error": error})
                continue
            probabilities = self.scorer.probabilities(image[np.newaxis])[0]
            best = int(probabilities.argmax())
            rows.append({
                "label": self.bundle.info.classes[best], "probability": float(probabilities[best]),
                "status": "ok", "error": None,
            })  # fmt: skip
        return pd.DataFrame(rows, columns=["label", "probability", "status", "error"])


set_model(ServedClassifier())
