"""Every mode in every format that holds it: `check`, `normalize` and `predict` agree."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imageset.check import check_source
from imageset.decoding.decoder import decode, read_image_header
from imageset.decoding.spec import DecodeSpec
from imageset.normalize.stage import normalize
from imageset.normalize.tasks import measure_image
from imageset.raw.ingestion import ingest_source
from imageset.rejections import Rejected
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS
from tests.helpers.high_bit_depth import encode_tiff

SIDE = 24
FORMATS = {  # the formats of each mode; "grey" if the colours are gone
    "1": "grey PNG TIFF BMP GIF PPM JPEG",
    "L": "grey PNG TIFF BMP GIF PPM JPEG WEBP JPEG2000",
    "LA": "grey PNG TIFF WEBP JPEG2000",
    "P": "PNG TIFF BMP GIF",
    "P and transparency": "PNG GIF",
    "PA": "grey TIFF",
    "RGB": "PNG TIFF BMP PPM JPEG WEBP JPEG2000",
    "RGBA": "PNG TIFF WEBP JPEG2000",
    "CMYK": "TIFF JPEG",
    "YCbCr": "JPEG",
    "LAB": "TIFF",
    "I": "grey TIFF",
    "I;16": "grey PNG TIFF",
    "I;16B": "grey TIFF",
    "F": "grey TIFF",
}
KINDS = [(mode, kind) for mode, kinds in FORMATS.items() for kind in kinds.split() if kind != "grey"]


def draw(seed: int = 0) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def encode_mode(mode: str, kind: str, seed: int = 0) -> bytes:
    """The picture of a seed in a mode, in 8 bits scaled to the type's range, as a file."""
    rgb, options = draw(seed), {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    grey = rgb.convert("L")
    if mode == "P and transparency":
        image, options = rgb.convert("P"), {"transparency": 255}
    elif mode == "PA":
        image = grey.convert("LA").convert(mode)
    elif mode in ("I", "F", "I;16", "I;16B"):
        values = np.asarray(grey).astype(np.float32) * 257
        types = {"I": np.int32, "F": np.float32, "I;16": "<u2", "I;16B": ">u2"}
        if kind == "TIFF":
            return encode_tiff(values.astype(types[mode]), ">" if mode == "I;16B" else "<")
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = rgb.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_a_mode_becomes_the_same_pixels_in_grey_and_colour(mode: str, kind: str) -> None:
    data, is_grey = encode_mode(mode, kind), FORMATS[mode].startswith("grey")
    colour, grey = (decode(data, DecodeSpec(SIDE, channels, "stretch", "nearest", 10**6)) for channels in (3, 1))
    assert np.abs(np.asarray(Image.fromarray(colour).convert("L")).astype(int) - grey[..., 0]).max() <= 2
    expected = np.asarray(draw().convert("L").convert("RGB") if is_grey else draw()).astype(int)
    if mode != "1":  # dithered
        assert np.abs(colour - expected).mean() < (20 if mode[0] == "P" else 4)
    assert not (read_image_header(data, 10**6).is_grey and not is_grey)
    header, _, pixels, _ = measure_image(data, DecodeSpec(SIDE, 3, "stretch", "nearest", 10**6))
    assert header.width == SIDE and np.abs(pixels.astype(int) - colour).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_check_and_normalize_refuse_the_same_pictures_for_the_same_reasons(tmp_path: Path, channels: int) -> None:
    source = tmp_path / "source"
    for position, name in enumerate(("ant", "bee")):
        (source / name).mkdir(parents=True)
        for number, (mode, kind) in enumerate(KINDS):
            data = encode_mode(mode, kind, seed=100 * position + number)
            (source / name / f"{number}.{kind.lower().replace('jpeg2000', 'jp2')}").write_bytes(data)
    (source / "ant" / "negative.tif").write_bytes(encode_tiff(np.full((SIDE, SIDE), -5, np.int16)))
    (source / "ant" / "floats.ppm").write_bytes(b"Pf\n24 24\n-1.0\n" + bytes(4 * SIDE * SIDE))
    (source / "ant" / "ycbcr.tif").write_bytes(encode_mode("YCbCr", "TIFF"))
    report = check_source(source, workers=1, near_duplicate_bits=None)
    ingest_source(source, tmp_path / "raw")
    params = NORMALIZE_PARAMS | {"channels": channels, "max_reject_fraction": 0.5}
    normalize(tmp_path / "raw", tmp_path / "normalized", params, workers=1)
    rows = pq.read_table(tmp_path / "normalized" / "rejected.parquet").to_pylist()
    assert {(row["uri"], row["reason"], row["detail"]) for row in rows} == {
        (one.uri, one.reason, one.detail) for one in report.refused
    }
    assert {row["uri"]: row["detail"] for row in rows} == {
        "ant/negative.tif": "values from -5 to -5; 0 to 65535 can be shown",
        "ant/floats.ppm": "PFM; convert it to JPEG or PNG",
        "ant/ycbcr.tif": "TIFF of YCbCr without compression; convert the picture to RGB",
    }
    assert len(ImageStore.open(tmp_path / "normalized").index) == report.num_sound


def test_a_mode_that_cannot_be_converted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Image.Image, mode: str) -> Image.Image:
        raise ValueError(f"conversion from {self.mode} to {mode} not supported")

    data = encode_mode("LAB", "TIFF")
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(Rejected, match="unsupported: colours in the mode LAB; convert the picture to RGB"):
        decode(data, DecodeSpec(SIDE, 3, "stretch", "nearest", 10**6))
