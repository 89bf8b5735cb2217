from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from imageset.decoding.spec import DecodeSpec
from imageset.executors.stream import decode_stream
from imageset.rejections import Rejected

SPEC = DecodeSpec(8, 1, "stretch", "bilinear", 10**6)


def grey(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_come_back_in_the_order_they_went_in() -> None:
    decoded = list(decode_stream(((n, grey(n)) for n in range(200)), SPEC, workers=2))
    assert [key for key, _ in decoded] == list(range(200))
    assert all(isinstance(pixels, np.ndarray) and pixels[0, 0, 0] == key for key, pixels in decoded)


def test_a_bad_picture_never_shifts_another() -> None:
    items = [(0, grey(0)), (1, b"text"), (2, grey(2))]
    outcomes = dict(decode_stream(items, SPEC, workers=1))
    assert isinstance(outcomes[1], Rejected) and outcomes[1].reason == "not_an_image"
    assert outcomes[2][0, 0, 0] == 2  # type: ignore[index]


def test_only_a_few_pictures_are_read_ahead() -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[int, bytes]]:
        for n in range(100_000):
            taken.append(n)
            yield n, grey(0)

    stream = decode_stream(endless(), SPEC, workers=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(taken) < 1000
