from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.datasets import CIFAR_CLASSES
from tests.helpers.photographs import crop_photographs


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (30, 32, 32, 3) and labels (30,) of parts of photographs under CIFAR-10's names, mixed."""
    found = crop_photographs(CIFAR_CLASSES, 10)
    order = np.random.default_rng(0).permutation(30)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found.values()])
    labels = np.array([CIFAR_CLASSES.index(name.split("/")[0]) for name in found])
    return pixels[order], labels[order]
