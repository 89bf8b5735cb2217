"""The decode parameters (DecodeSpec) and the header of an image (ImageHeader)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

# An image with a shorter side shows nothing; placeholder images of web pages are 1 x 1.
MIN_SIDE_PX = 4

AUTO_SIZES_PX = (32, 64, 96, 128, 160, 192, 224)  # the choices of `size_px: auto`
FITS = ("crop", "pad", "stretch")
FIDELITIES = ("exact", "fast")
INTERPOLATIONS: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """The parameters by which every image is decoded; they are stored with each dataset and each model.

    Attributes:
        size: side of the square result in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: "crop" (short side to size, centre kept), "pad" (long side to size, black borders) or "stretch".
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; antialiased, except nearest.
        max_pixels: an image whose header gives more pixels is rejected before it is decoded.
        fidelity: "exact" (every pixel is decoded, then resized with antialiasing) or "fast" (the JPEG decoder may
            scale down first, to no less than twice the size).
    """

    size: int
    channels: int
    fit: str
    interpolation: str
    max_pixels: int
    fidelity: str = "exact"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise ValueError(f"size must be 1 to 4096 px, not {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, not {self.fit!r}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation must be one of {known}, not {self.interpolation!r}")
        if self.fidelity not in FIDELITIES:
            raise ValueError(f"fidelity must be one of {', '.join(FIDELITIES)}, not {self.fidelity!r}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be positive, not {self.max_pixels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of every decoded image."""
        return self.size, self.size, self.channels

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecodeSpec:
        """Create a DecodeSpec from the dictionary of `to_dict`.

        Raises:
            ValueError: a key is missing or unknown, or a value is out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a decode specification: {error}") from None


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image.

    Attributes:
        format: Pillow's name of the format.
        width: in pixels as stored, before the EXIF orientation is applied.
        height: likewise.
        is_grey: whether the image has no colour.
    """

    format: str
    width: int
    height: int
    is_grey: bool
