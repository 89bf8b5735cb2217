"""Warnings about pictures whose contrast is lost when they become 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imageset.decoding.spec import DecodeSpec
from imageset.rejections import escape_control_characters
from imageset.utils.text import format_count

MIN_STD = 8 / 255  # standard deviation of all pixels of a dataset; ordinary photographs have about 0.25
OUTLIER_FACTOR = 8  # an image whose values end so far below the range has 5 of 8 bits left
MAX_OUTLIERS = 0.05  # fraction of the images of 16 bits


def warn_low_contrast(mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """Return a warning if the pixels of a dataset hardly differ.

    Args:
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
    """
    if max(std) >= MIN_STD:
        return []
    return [
        f"hardly any contrast: the pixels of all pictures have the mean {255 * max(mean):.1f} of 255 and the "
        f"standard deviation {255 * max(std):.1f}; scale them to 0 to 255, and ingest them again"
    ]


def warn_outliers(peaks: np.ndarray, uris: Sequence[str], spec: DecodeSpec) -> list[str]:
    """Return a warning if a few pictures alone set the range by which all pictures of 16 bits are read.

    Args:
        peaks: highest values of the pictures of 16 bits.
        uris: of the same pictures.
        spec: the decode parameters.
    """
    low = peaks[peaks * OUTLIER_FACTOR <= peaks.max()] if len(peaks) else peaks
    num = len(peaks) - len(low)
    if not len(low) or num > max(1, MAX_OUTLIERS * len(peaks)):
        return []
    first = escape_control_characters(uris[int(peaks.argmax())])
    return [
        f"{format_count(num, '16-bit picture has', '16-bit pictures have')} values up to {peaks.max():,.0f}, "
        f"e.g. {first}, and the other {len(low):,} end at {low.max():,.0f}: all are read with a range of "
        f"{spec.integer_max:,}, and most are dark; take it out or scale it like the others"
    ]
