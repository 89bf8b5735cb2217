"""Properties for any order of images, number of ingests, executor, and added or removed images."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.sources.base import SourceImage
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS
from tests.helpers.images import encode_noise

NUM = 40
pictures = cache(encode_noise)


class Given:
    """A source of the pictures with these numbers, in this order."""

    name, kind, multi_label, problem = "given", "folder", False, None

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.passed_over, self.classes, self.splits = Counter[str](), Counter[str](), Counter[str]()

    def __iter__(self) -> Iterator[SourceImage]:
        for number in self.numbers:
            label = ("ant", "bee")[number % 2]
            yield SourceImage(f"{label}/{number}.png", label, None, None, lambda number=number: pictures(number))

    def __len__(self) -> int:
        return len(self.numbers)

    def describe(self) -> str:
        return "given"


def store_of(ingests: Sequence[Sequence[int]], executor: str = "threads", workers: int = 1) -> tuple[str, dict]:
    """(fingerprint, split by uri) of what comes of these ingests, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        for numbers in ingests:
            ingest_source(Given(numbers), Path(folder) / "raw")
        made = Path(folder) / "out"
        normalize(Path(folder) / "raw", made, NORMALIZE_PARAMS, workers=workers, executor=executor)
        store = ImageStore.open(made)
        columns = (store.index[name].to_pylist() for name in ("uri", "split"))
        return store.fingerprint, dict(zip(*columns, strict=True))


whole = cache(lambda: store_of([range(NUM)]))


@given(st.permutations(range(NUM)), st.integers(0, NUM), st.sampled_from([("threads", 3), ("processes", 2)]))
@settings(deadline=None, max_examples=8)
def test_any_order_any_ingests_and_any_executor_give_one_fingerprint(
    order: list[int], cut: int, where: tuple[str, int]
) -> None:
    assert store_of([order[:cut] or order, order], *where) == whole()


@given(
    st.sets(st.integers(0, NUM - 1), max_size=12), st.lists(st.integers(NUM, 2 * NUM), unique=True, max_size=20)
)
@settings(deadline=None, max_examples=12)
def test_a_picture_stays_in_its_split_whoever_comes_or_goes(gone: set[int], come: set[int]) -> None:
    left = [number for number in range(NUM) if number not in gone]
    for ingests in ([range(NUM), [*come, *left]], [[*left, *come]]):
        splits = store_of(ingests)[1]
        assert len(splits) == len(left) + len(come)
        assert all(split == whole()[1].get(uri, split) for uri, split in splits.items())
