"""Real photographs that come with dependencies: two of scikit-learn's, one of matplotlib's; and parts of them."""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = {
    "china.jpg": ("sklearn", "datasets/images"),  # 640 x 427, the Summer Palace
    "flower.jpg": ("sklearn", "datasets/images"),  # 640 x 427, a dahlia
    "grace_hopper.jpg": ("matplotlib", "mpl-data/sample_data"),  # 512 x 600, in uniform
}
LEFT, RIGHT, BELOW = (0.0, 0.0, 2 / 3, 1.0), (1 / 3, 0.0, 1.0, 1.0), (0.0, 1 / 3, 1.0, 1.0)
LOWER_LEFT = (0.0, 0.5, 0.5, 1.0)
# name -> photograph, the part (left, top, right, bottom, of 1), what ImageNet calls it
RECOGNIZABLE = {
    "palace": ("china.jpg", None, "palace"),
    "monastery": ("china.jpg", BELOW, "monastery"),
    "walls": ("china.jpg", LOWER_LEFT, "monastery"),
    "tower": ("china.jpg", LEFT, "bell cote"),
    "lake": ("china.jpg", RIGHT, "lakeside"),
    "flower": ("flower.jpg", None, "daisy"),
    "petals": ("flower.jpg", LEFT, "daisy"),
    "tie": ("grace_hopper.jpg", LOWER_LEFT, "Windsor tie"),
}


def read_photograph(name: str) -> bytes:
    package, folder = PHOTOGRAPHS[name]
    spec = find_spec(package)  # an import of it would take seconds
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / folder / name).read_bytes()


@cache
def open_photograph(name: str) -> Image.Image:
    return Image.open(io.BytesIO(read_photograph(name))).convert("RGB")


def encode_photograph(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read_recognizable_photographs() -> dict[str, tuple[bytes, str]]:
    """{name: (bytes of a JPEG, its class of ImageNet)} of photographs and large parts of them."""
    return {
        name: (_read_part(photograph, part), label) for name, (photograph, part, label) in RECOGNIZABLE.items()
    }


def _read_part(name: str, part: tuple[float, float, float, float] | None) -> bytes:
    if part is None:
        return read_photograph(name)
    sides = open_photograph(name).size * 2
    box = tuple(round(share * side) for share, side in zip(part, sides, strict=True))
    return encode_photograph(open_photograph(name).crop(box), quality=95)  # type: ignore[arg-type]


def crop_photograph(name: str, seed: int, side_px: int = 32) -> Image.Image:
    """A square part of a photograph, at a place that the seed draws."""
    whole, draws = open_photograph(name), np.random.default_rng(seed)
    left, top = (int(draws.integers(0, side - 4 * side_px)) for side in whole.size)
    return whole.crop((left, top, left + 4 * side_px, top + 4 * side_px)).resize((side_px, side_px))


def crop_photographs(classes: tuple[str, ...], num_each: int, side_px: int = 32) -> dict[str, bytes]:
    """{CLASS/NUMBER.jpg: bytes} of parts of the photographs; those of a class stem from one."""
    return {
        f"{label}/{number:03d}.jpg": encode_photograph(
            crop_photograph(list(PHOTOGRAPHS)[position % 3], 1000 * position + number, side_px), quality=90
        )
        for position, label in enumerate(classes)
        for number in range(num_each)
    }


def write_tracks(folder: Path, num_tracks: int = 8, num_frames: int = 15) -> Path:
    """GTSRB's layout, CLASS/TRACK_FRAME.ppm: each track comes nearer to one place of a photograph."""
    for number in range(num_tracks):
        label, track = f"{number % 2:05d}", f"{number // 2:05d}"
        (folder / label).mkdir(parents=True, exist_ok=True)
        whole, draws = open_photograph(list(PHOTOGRAPHS)[number % 3]), np.random.default_rng(number)
        left, top = (int(draws.integers(0, side - 220)) for side in whole.size)
        for frame in range(num_frames):
            box = (left + 4 * frame, top + 3 * frame, left + 200 - 5 * frame, top + 200 - 6 * frame)
            part = whole.crop(box).resize((32 + 2 * frame, 32 + 2 * frame))
            (folder / label / f"{track}_{frame:05d}.ppm").write_bytes(encode_photograph(part, "PPM"))
    return folder
