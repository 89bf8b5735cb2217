"""Odd but sound files made of photographs: turned by EXIF, CMYK, tiled, animated, of several pages, of 16 bits."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.photographs import encode_photograph, open_photograph

ORIENTATION = 0x0112
SIZE = (160, 106)


@cache
def make_odd_files() -> dict[str, bytes]:
    """{name: bytes}; HEIC is not among them, since its encoder may be missing."""
    photo = open_photograph("china.jpg").resize(SIZE)
    turned = {
        f"orientation_{number}.{kind}": encode_turned(photo, number, kind)
        for number in range(1, 9)
        for kind in ("jpeg", "webp", "avif")
    }
    unknown = {f"orientation_{number}.jpeg": encode_turned(photo, number, "jpeg") for number in (9, 255, 65535)}
    cmyk = encode_photograph(photo.convert("CMYK"), quality=95)
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    frames = [open_photograph(name).resize((64, 64)) for name in ("china.jpg", "flower.jpg", "grace_hopper.jpg")]
    both: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    pages = [photo.resize((50 + 10 * number, 40)).convert("1") for number in range(3)]
    faded = photo.convert("LA")
    faded.putalpha(Image.linear_gradient("L").resize(SIZE))
    return {
        **turned,
        **unknown,
        "cmyk.jpeg": cmyk,
        "cmyk_without_adobe.jpeg": remove_segment(cmyk, b"Adobe"),
        "progressive.jpeg": encode_photograph(photo, progressive=True),
        "la.png": encode_photograph(faded, "PNG"),
        "tiled.jp2": encode_photograph(photo, "JPEG2000", tile_size=(64, 64)),
        "codestream.j2k": encode_photograph(photo, "JPEG2000", no_jp2=True),
        "photo.avif": encode_photograph(photo, "AVIF", quality=90),
        "grey16.png": encode_photograph(Image.fromarray(grey), "PNG"),
        "grey16.tif": encode_photograph(Image.fromarray(grey), "TIFF"),
        "frames.gif": encode_photograph(frames[0], "GIF", **both),
        "frames.webp": encode_photograph(frames[0], "WEBP", **both),
        "pages.tif": encode_photograph(
            pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="group4"
        ),
    }


def encode_turned(picture: Image.Image, orientation: int, kind: str) -> bytes:
    """As a camera does that was turned: the pixels as they lie, and how to turn them."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode_photograph(picture, kind, exif=exif, quality=90)


def remove_segment(jpeg: bytes, content: bytes) -> bytes:
    start = jpeg.index(content) - 4
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def encode_heic(picture: Image.Image) -> bytes:
    """Needs pillow-heif."""
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=90)
    return buffer.getvalue()
