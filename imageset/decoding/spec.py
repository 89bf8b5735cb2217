"""The decode parameters (DecodeSpec) and the header of an image (ImageHeader)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from PIL import Image

# An image with a shorter side shows nothing; placeholder images of web pages are 1 x 1.
MIN_SIDE_PX = 4

AUTO_SIZES_PX = (32, 64, 96, 128, 160, 192, 224)  # the choices of `size_px: auto`
_NUM_FIRST_FIELDS = 6  # of DecodeSpec, in the manifest of every dataset and bundle
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
        crop_fraction: with "crop", the side of the central square that is kept, as a fraction of the short side,
            e.g. 0.875 for 224 of 256 px: networks are published with such a crop.
        integer_max: the value that becomes white in images of 16 or 32 bits, e.g. 4095 for a camera of 12 bits.
        float_max: the value that becomes white in images of floating-point numbers; None: 1, 255 or 65,535, the
            smallest that is not below the values of the image.
    """

    size: int
    channels: int
    fit: str
    interpolation: str
    max_pixels: int
    fidelity: str = "exact"
    crop_fraction: float = 1.0
    integer_max: int = 65_535
    float_max: int | None = None

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
        if not 0.1 <= self.crop_fraction <= 1 or (self.crop_fraction < 1 and self.fit != "crop"):
            raise ValueError(f"crop_fraction must be 0.1 to 1, and 1 unless fit is crop, not {self.crop_fraction}")
        if not 1 <= self.integer_max <= 65_535 or not 1 <= (self.float_max or 1) <= 65_535:
            raise ValueError(
                f"integer_max and float_max must be 1 to 65535, not {self.integer_max} and {self.float_max}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of every decoded image."""
        return self.size, self.size, self.channels

    @property
    def short_side_px(self) -> int:
        """The short side of the whole image, in pixels, when its central square has the side `size`."""
        return round(self.size / self.crop_fraction)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary, for JSON.

        Later fields are left out while they have their defaults, so that the fingerprints of datasets and the
        digests of bundles stay those of before the fields existed.
        """
        later = {field.name: field.default for field in fields(self)[_NUM_FIRST_FIELDS:]}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

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
