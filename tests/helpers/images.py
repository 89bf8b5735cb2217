"""Small real pictures for the tests of imageset."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def write_digit_images(folder: Path, classes: str = "012", num_each: int = 50) -> Path:
    """Handwritten digits as PNG files, one folder a class."""
    from imageset.html.png import encode_png
    from imageset.sources.benchmark_sets.digits import load_digit_images

    pixels, labels = load_digit_images()
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number in (labels == int(label)).nonzero()[0][:num_each]:
            (folder / label / f"{number:04d}.png").write_bytes(encode_png(pixels[number]))
    return folder


def write_multilabel_images(folder: Path, num: int = 700) -> Path:
    """Pictures of 16 x 16 that show none, one or two of the digits 0 to 3 side by side, or a 5, which is no label;
    returns a table whose columns say 0 or 1 of each label."""
    import numpy as np

    from imageset.html.png import encode_png
    from imageset.sources.benchmark_sets.digits import load_digit_images

    pixels, labels = load_digit_images()
    draws, names = np.random.default_rng(0), ("zero", "one", "two", "three")
    folder.mkdir(parents=True)
    lines = [f"file,{','.join(names)}"]
    for number in range(num):
        canvas, shown = np.zeros((16, 16), np.uint8), set()
        for left in (0, 8)[: draws.integers(0, 3) or 2]:
            digit = int(draws.choice([0, 1, 2, 3, 5], p=[0.3, 0.2, 0.2, 0.1, 0.2]))
            canvas[4:12, left : left + 8] = pixels[draws.choice(np.flatnonzero(labels == digit))]
            shown.add(digit)
        canvas += draws.integers(0, 8, canvas.shape, np.uint8) * (canvas < 200)  # no two are the same
        (folder / f"{number:04d}.png").write_bytes(encode_png(canvas))
        lines.append(f"{number:04d}.png,{','.join('01'[digit in shown] for digit in range(4))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def encode_image(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """uint8 (H, W[, 3]) -> the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def encode_noise(seed: int, height: int = 20, width: int = 20, kind: str = "PNG") -> bytes:
    """A picture like no other."""
    return encode_image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), kind)


def make_image_folder(
    root: Path, classes: tuple[str, ...] = ("ant", "bee"), num_each: int = 20, first: int = 0
) -> Path:
    """root/CLASS/0000.png ..., every picture different."""
    for position, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + num_each):
            (root / name / f"{number:04d}.png").write_bytes(encode_noise(1000 * position + number))
    return root


def draw_photo(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_photo_folder(root: Path, num_each: int = 30) -> Path:
    for position, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for number in range(num_each):
            (root / name / f"{number:03d}.jpg").write_bytes(encode_jpeg(draw_photo(1000 * position + number), 95))
    return root


def make_split_folder(root: Path) -> Path:
    """train and test folders; five pictures of test stand recompressed in train."""
    for split, first in (("train", 0), ("test", 100)):
        for position, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(first, first + 20):
                data = encode_jpeg(draw_photo(1000 * position + number), 95)
                (root / split / name / f"{number:03d}.jpg").write_bytes(data)
    for number in range(100, 105):
        (root / "train" / "ant" / f"leak{number}.jpg").write_bytes(encode_jpeg(draw_photo(number), 70))
    return root
