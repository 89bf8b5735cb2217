from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageset.sources.benchmark_sets.safe_pickle import UnsafePickle, read_plain_pickle
from tests.helpers.datasets import PickledCommand


class PickledGetattr:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, ("text", "upper")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("evil", [PickledCommand(), PickledGetattr(), eval, object(), Path("x")])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Any, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickle):
        read_plain_pickle(pickle.dumps({"data": evil}, protocol=protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.extra"[:4],
        b"not a pickle at all",
        b"cos\nsystem\n(S'touch executed'\ntR.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(K\xfftcnumpy\ndtype\nX\x01\x00\x00\x00OR)tb.",
    ],
)
def test_a_damaged_or_twisted_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickle):
        read_plain_pickle(data)
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_read_equals_what_python_would_read() -> None:
    value = {
        b"data": np.arange(6144, dtype=np.uint8).reshape(2, 3072), b"labels": [1, -2, 300, 70_000, 2**40],
        b"filenames": [b"a" * 300, b"b"], b"ok": True, b"nothing": None, b"share": 0.5,
    }  # fmt: skip
    value[b"data"] = np.asfortranarray(value[b"data"])
    for protocol in (0, 1, 2):
        found = read_plain_pickle(pickle.dumps(value, protocol=protocol))
        np.testing.assert_array_equal(found.pop("data"), value[b"data"])
        assert found == {key.decode(): one for key, one in value.items() if key != b"data"}
