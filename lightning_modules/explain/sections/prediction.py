"""The section on the prediction: from logits to probabilities, number by number."""

from typing import Any

import numpy as np
import torch

from lightning_modules.calibration import thresholds
from lightning_modules.explain.instrumentation import InstrumentedModel

NUM_TOP_CLASSES = 5  # classes whose probabilities are shown


@torch.no_grad()
def describe_prediction(model: InstrumentedModel, image: np.ndarray) -> dict[str, Any]:
    """Return the likeliest classes with their logits, the exponentials of softmax and the probabilities."""
    logits = model.logits(model.preprocess(image[None]))[0].double().numpy()
    scaled = logits / model.info.temperature
    probabilities = model.probabilities(image[None])[0]
    best = probabilities.argsort(kind="stable")[::-1][:NUM_TOP_CLASSES].tolist()
    limits = model.info.thresholds
    predicted = None if limits is None else thresholds.apply_thresholds(probabilities, limits)
    highest = 0.0 if limits is not None else float(scaled.max())  # e^z may be too large a number to print
    rows = [
        {
            "name": model.info.classes[i], "logit": float(logits[i]), "scaled": float(scaled[i]),
            "exponential": float(np.exp(scaled[i] - highest)), "probability": float(probabilities[i]),
            "threshold": None if limits is None else limits[i],
            "predicted": None if predicted is None else bool(predicted[i]),
        }
        for i in best
    ]  # fmt: skip
    return {
        "multi_label": limits is not None, "rows": rows, "num_classes": len(probabilities),
        "temperature": model.info.temperature, "sum": float(np.exp(scaled - highest).sum()),
        "has_mirror": model.has_mirror,
    }  # fmt: skip
