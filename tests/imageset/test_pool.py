from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from imageset.decode import DecodeSpec
from imageset.pool import Workers, decode_stream, map_stream
from imageset.quality import Rejected
from imageset.worker import limit_memory
from tests.conftest import ROOT

SPEC = DecodeSpec(8, 1, "stretch", "bilinear", 10**6)


def grey(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


def act(data: bytes) -> bytes:
    if data == b"fill":
        limit_memory(max_pixels=1_000_000)
        return bytes(2 << 30)
    if data == b"die":
        os._exit(7)
    if data == b"hang":
        time.sleep(60)
    return data.upper()


def test_pictures_come_back_in_the_order_they_went_in() -> None:
    decoded = list(decode_stream(((n, grey(n)) for n in range(200)), SPEC, workers=2))
    assert [key for key, _ in decoded] == list(range(200))
    assert all(isinstance(pixels, np.ndarray) and pixels[0, 0, 0] == key for key, pixels in decoded)


def test_a_bad_picture_never_shifts_another() -> None:
    items = [(0, grey(0)), (1, b"text"), (2, grey(2))]
    outcomes = dict(decode_stream(items, SPEC, workers=1))
    assert isinstance(outcomes[1], Rejected) and outcomes[1].reason == "not_an_image"
    assert outcomes[2][0, 0, 0] == 2  # type: ignore[index]


def test_a_crash_and_a_hang_cost_one_picture_each() -> None:
    items = [(n, b"fine") for n in range(9)]
    items[3], items[6] = (3, b"die"), (6, b"hang")
    outcomes = dict(map_stream(items, act, workers=2, timeout_s=0.5))
    assert {n: str(one.reason) for n, one in outcomes.items() if isinstance(one, Rejected)} == {
        3: "crashed",
        6: "timeout",
    }
    assert all(outcomes[n] == b"FINE" for n in range(9) if n not in (3, 6))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_a_program_of_one_thread_forks_its_workers_and_what_dies_is_named_all_the_same() -> None:
    script = (
        "import os\n"
        "from imageset.pool import ONE_THREAD, Forked, Workers, map_stream\n"
        "os.environ.update(ONE_THREAD)\n"
        "from tests.imageset.test_pool import act\n"
        "with Workers(2) as pool:\n"
        "    assert all(isinstance(one, Forked) for one in pool._idle)\n"
        "    items = enumerate([b'fine', b'die', b'hang', b'fine'])\n"
        "    for number, found in map_stream(items, act, crew=pool, timeout_s=0.5):\n"
        "        print(number, getattr(found, 'reason', found))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["0 b'FINE'", "1 crashed", "2 timeout", "3 b'FINE'"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
def test_a_picture_that_wants_too_much_memory_gets_an_error_and_not_the_machine() -> None:
    with Workers(1) as pool:
        with pytest.raises(MemoryError):
            pool.submit(act, b"fill").result()
        assert pool.submit(act, b"fine").result() == b"FINE"


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


def test_workers_that_rest_are_ended_and_others_come_when_there_is_work() -> None:
    with Workers(1) as pool:
        before = pool.submit(os.getpid).result()
        pool.rest()
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)
        assert pool.submit(os.getpid).result() not in (before, os.getpid())
