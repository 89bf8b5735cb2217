import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from imageset.sources.benchmark_sets.digits import load_digit_images
from lightning_modules.calibration.temperature import to_probabilities


def draw_logits(n=4000, num_classes=6, seed=0):
    """Logits that are honest, and labels drawn from the probabilities that they say."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(0, 2, (n, num_classes))
    labels = (to_probabilities(logits, 1.0, False).cumsum(1) < draws.random((n, 1))).sum(1)
    return logits, labels.clip(0, num_classes - 1)


SMALL_CONVNET = {
    "filters": [4, 8], "kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2, "grid": 4,
    "hidden": [], "dropout": 0.0, "batch_norm": True,
}  # fmt: skip


def train_few_steps(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The loss before each of a few steps on the same pictures; nothing is dropped at random."""
    network.train()
    for layer in network.modules():
        if type(layer).__name__ in ("Dropout", "StochasticDepth"):
            layer.eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.002)
    losses = []
    for step in range(3):
        loss = F.cross_entropy(network(images), labels)
        losses.append(loss.item())
        if step < 2:
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses


RECIPE_OFF = {
    "weights": None, "mean_std": "auto", "freeze": "none", "backbone_lr": 1.0,
    "schedule": "cosine", "warmup": 0.2, "decay_norm_and_bias": False, "ema": None, "label_smoothing": 0.0,
    "imbalance": "none", "channels_last": False, "compile": False, "shift": 0.0, "flip": False, "rand_augment": 0,
    "strength": 0.5, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip


def make_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)


class DigitBatches(torch.utils.data.Dataset):
    """Batches of 16 real digits: uint8 (16, 8, 8, 1) and their labels."""

    def __init__(self) -> None:
        pixels, labels = load_digit_images()
        self.images, self.labels = torch.from_numpy(pixels[:64])[..., None], torch.from_numpy(labels[:64])

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number):
        if number >= 4:
            raise IndexError
        return self.images[16 * number : 16 * number + 16], self.labels[16 * number : 16 * number + 16]


def make_loader():
    return torch.utils.data.DataLoader(DigitBatches(), batch_size=None)


def make_trainer(folder, epochs, **options) -> pl.Trainer:
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
                      **options)  # fmt: skip


def make_label_sets() -> np.ndarray:
    """1,000 pictures: half bear the first of ten labels, 10 the second, 490 none."""
    labels = np.zeros((1000, 10), np.uint8)
    labels[:500, 0] = labels[500:510, 1] = 1
    return labels
