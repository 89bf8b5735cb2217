"""Batches of a normalized dataset, read from its memory map or from a copy in memory or on the GPU."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import psutil
import pytorch_lightning as pl
import torch

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore, StoreSplit

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 (N, H, W, C); int64 (N,), or uint8 (N, K) if multi-label
Cache = Literal["auto", "none", "ram", "device"]
RAM_SHARE, DEVICE_SHARE = 0.5, 0.3  # of the free memory, for the pixels of a split with `auto`


class BatchSampler:
    """Batches of positions in a split. Their order depends only on (seed, epoch), so a resumed run repeats it.

    The ranks share each group of `num_ranks * batch_size` images, so that a step of all ranks has the images that
    a step of a single process with that batch size has. The last group is divided evenly; all ranks have the same
    number of batches.

    Args:
        num_images: number of images in the split.
        batch_size: number of images in a batch.
        seed: shuffles the images; None keeps the order of the store.
        rank: number of this rank.
        num_ranks: number of all ranks.
        probabilities: (num_images,), with which images are drawn with replacement; None: an epoch has each image
            once.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int = 0,
        num_ranks: int = 1,
        probabilities: np.ndarray | None = None,
    ) -> None:
        self.num_images, self.batch_size, self.probabilities = num_images, batch_size, probabilities
        self.seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self.groups = self._make_groups()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the order depends on; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.arange(self.num_images)
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, self.epoch])
            if self.probabilities is None:
                order = generator.permutation(self.num_images)
            else:
                order = generator.choice(self.num_images, self.num_images, p=self.probabilities)
        for start, num in self.groups:
            begin, end = self._compute_bounds(start, num)
            yield order[begin:end]

    def compute_rank_share(self, number: int) -> float:
        """Return the size of this rank's batch relative to the mean over the ranks.

        It differs from 1 if the group cannot be divided evenly.
        """
        start, num = self.groups[number]
        begin, end = self._compute_bounds(start, num)
        return (end - begin) * self.num_ranks / num

    def _compute_bounds(self, start: int, num: int) -> tuple[int, int]:
        """Return the begin and the end of this rank's share of a group, in the order of the epoch."""
        begin, end = (start + num * rank // self.num_ranks for rank in (self.rank, self.rank + 1))
        return begin, end

    def _make_groups(self) -> list[tuple[int, int]]:
        """List the start of each step's images in the order of the epoch, and their number."""
        group_size = self.batch_size * self.num_ranks
        starts = range(0, self.num_images, group_size)
        if self.seed is not None and len(starts) > 1 and self.num_images - starts[-1] < 2 * self.num_ranks:
            # batch normalization fails for a batch of one image; other epochs draw the images that are left out
            starts = starts[:-1]
        groups = [(start, min(group_size, self.num_images - start)) for start in starts]
        if len(groups) > 1 and groups[-1][1] < self.num_ranks:  # else a rank would have no batch in the last step
            (start, num), (_, num_last) = groups[-2:]
            groups[-2:] = [(start, num + num_last)]
        return groups


def choose_cache(cache: Cache, num_bytes: int, device: torch.device, ranks_on_node: int) -> Cache:
    """Choose where `num_bytes` of pixels are held: "none" (in the memory map), "ram", or "device".

    `auto` chooses the device if it is a GPU with enough free memory, else "ram" if each rank of this machine can
    have its own copy there, else the memory map. On a CPU, "device" is "ram".
    """
    if (
        cache == "auto"
        and device.type == "cuda"
        and num_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    ):
        return "device"
    if cache == "auto":
        return "ram" if num_bytes * ranks_on_node <= RAM_SHARE * psutil.virtual_memory().available else "none"
    return "ram" if cache == "device" and device.type == "cpu" else cache


class BatchLoader:
    """The batches of a split, with a position in the epoch that a checkpoint saves and a resumed run continues.

    Args:
        split: the images and labels.
        sampler: chooses the images of each batch.
        cache: where the pixels are held; all are read at once before the first batch.
        device: device that the batches are used on.
        ranks_on_node: number of processes on this machine that load the same split.
    """

    batch_sampler = None  # Lightning expects this attribute beside `sampler`

    def __init__(
        self,
        split: StoreSplit,
        sampler: BatchSampler,
        cache: Cache = "none",
        device: torch.device | None = None,
        ranks_on_node: int = 1,
    ) -> None:
        self.split, self.sampler = split, sampler
        self.cache, self.device, self.ranks_on_node = cache, device or torch.device("cpu"), ranks_on_node
        self.cached: Batch | None = None  # all pixels and labels
        self.num_used = self.num_to_skip = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        skipped, self.num_to_skip = self.num_to_skip, 0
        self._fill_cache()
        for number, positions in enumerate(self.sampler):
            if number >= skipped:
                self.num_used = number + 1
                yield self._take_batch(positions)

    def _fill_cache(self) -> None:
        """Read the split into memory or onto the GPU, if `cache` asks for that."""
        if self.cache == "none" or self.cached is not None:
            return
        image = self.split.read_batch(np.arange(min(1, len(self.split))))
        self.cache = choose_cache(self.cache, image.nbytes * len(self.split), self.device, self.ranks_on_node)
        if self.cache == "none":
            return
        device = self.device if self.cache == "device" else torch.device("cpu")
        pixels = torch.from_numpy(self.split.read_batch(np.arange(len(self.split))))
        self.cached = pixels.to(device), torch.from_numpy(self.split.labels).to(device)

    def _take_batch(self, positions: np.ndarray) -> Batch:
        if self.cached is None:
            batch = (
                torch.from_numpy(self.split.read_batch(positions)),
                torch.from_numpy(self.split.labels[positions]),
            )
        else:
            index = torch.from_numpy(positions).to(self.cached[0].device)
            batch = self.cached[0].index_select(0, index), self.cached[1].index_select(0, index)
        if self.device.type == "cuda" and not batch[0].is_cuda:
            return batch[0].pin_memory(), batch[1].pin_memory()  # lets the copy to the GPU run asynchronously
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch; Lightning saves it in checkpoints."""
        return {"epoch": self.sampler.epoch, "num_used": self.num_used}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next pass skip the batches that were used."""
        self.num_to_skip = state_dict["num_used"] % len(self)


class ImageDataModule(pl.LightningDataModule):
    """The splits of a normalized dataset as batches.

    A batch is uint8 images (N, H, W, C) and labels: int64 (N,), or 0 and 1 as uint8 (N, K) if multi-label.

    Args:
        store: folder of the normalized dataset.
        batch_size: number of images in a step, on each rank.
        cache: "none" reads batches from the memory map, "ram" and "device" hold a split in memory or on the GPU,
            "auto" chooses by the free memory. The batches are the same.

    Raises:
        UserError: the store is missing or damaged, or the batch size is below 1.
    """

    def __init__(self, store: str, batch_size: int, cache: Cache = "auto") -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; give 1 or more")
        self.store = ImageStore.open(store)
        self.batch_size, self.cache = batch_size, cache
        self.seed, self.balanced = 0, False  # balanced: training draws all classes equally often

    def train_dataloader(self) -> BatchLoader:
        """Return the loader of the training split, in an order that depends on (seed, epoch)."""
        return self._make_loader("train", self.seed)

    def val_dataloader(self) -> BatchLoader:
        """Return the loader of the validation split, in the order of the store."""
        return self._make_loader("val", None)

    def test_dataloader(self) -> BatchLoader:
        """Return the loader of the test split, in the order of the store."""
        return self._make_loader("test", None)

    def _make_loader(self, name: str, seed: int | None) -> BatchLoader:
        split, trainer = self.store.split(name), self.trainer
        probs = compute_sampling_probs(split.labels) if self.balanced and seed is not None else None
        if trainer is None:
            return BatchLoader(split, BatchSampler(len(split), self.batch_size, seed=seed, probabilities=probs))
        rank, num_ranks = trainer.global_rank, trainer.world_size
        sampler = BatchSampler(
            len(split), self.batch_size, seed=seed, rank=rank, num_ranks=num_ranks, probabilities=probs
        )
        return BatchLoader(
            split, sampler, self.cache, trainer.strategy.root_device, num_ranks // trainer.num_nodes
        )


def compute_sampling_probs(labels: np.ndarray) -> np.ndarray:
    """Compute probabilities (n,) of the images with which all classes are drawn equally often; their sum is 1.

    For multi-label labels (n, K), the rarest label of an image decides; no label counts as a class of its own.
    """
    if labels.ndim == 2:
        has_label = np.column_stack([labels, ~labels.any(axis=1)]).astype(np.float64)
        rarity = (has_label / np.maximum(has_label.sum(axis=0), 1)).max(axis=1)
    else:
        rarity = 1 / np.bincount(labels)[labels]
    return rarity / rarity.sum()
