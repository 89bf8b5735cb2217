from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.datasets import CIFAR_CLASSES
from tests.helpers.real_data import read_first_of_each_folder


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (30, 32, 32, 3) and labels (30,) of CIFAR-10, mixed."""
    found = read_first_of_each_folder("cifar10.tar.gz", 10, 3)
    order = np.random.default_rng(0).permutation(30)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found.values()])
    labels = np.array([CIFAR_CLASSES.index(name.split("/")[1]) for name in found])
    return pixels[order], labels[order]
