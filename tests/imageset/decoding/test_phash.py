from __future__ import annotations

import numpy as np
from PIL import Image

from imageset.decoding.phash import compute_phashes


def smooth(seed: int, side: int = 64) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC))


def hash_of(pixels: np.ndarray) -> int:
    return int(compute_phashes(pixels[None].astype(np.float32))[0])


def bits_between(one: np.ndarray, other: np.ndarray) -> int:
    return (hash_of(one) ^ hash_of(other)).bit_count()


def test_a_picture_that_was_resized_darkened_or_made_grey_keeps_its_hash_nearly() -> None:
    picture = smooth(1)
    assert bits_between(picture, smooth(1, side=97)) <= 4
    assert bits_between(picture, (picture * 0.9).astype(np.uint8)) <= 4
    assert bits_between(picture, np.asarray(Image.fromarray(picture).convert("L"))[..., None]) <= 4


def test_other_pictures_have_other_hashes() -> None:
    assert min(bits_between(smooth(1), smooth(seed)) for seed in range(2, 30)) > 10


def test_pictures_are_hashed_alike_alone_and_together() -> None:
    pictures = np.stack([smooth(seed) for seed in range(5)])
    assert compute_phashes(pictures.astype(np.float32)).tolist() == [hash_of(picture) for picture in pictures]


def test_a_very_large_picture_has_a_hash_too() -> None:
    assert bits_between(smooth(1, 700), smooth(1)) <= 6
