import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    """Parts of two photographs that come with scikit-learn: float32 (4, 3, 32, 32), and which one each is of."""
    from sklearn.datasets import load_sample_images

    parts = [photo[60 * i : 60 * i + 32, 100:132] for photo in load_sample_images().images for i in (1, 3)]
    images = torch.tensor(np.stack(parts)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.tensor([0, 0, 1, 1])
