import hashlib
import os

import pytest

from flows.prediction import cache as module
from flows.prediction.cache import CacheIndex, CacheShard, ImageRef, PredictionCache, is_transient, shard_stream
from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock

LENGTHS, NAME = [139, 147, 67, 327, 117, 151, 52], "8ac317a77b027c6d36856f8b3b966253"  # of 1000 images
TORN = b"PAR1" + b"\xff" * 20 + b"\x0a\0\0\0PAR1"  # a Parquet file whose footer is damaged


def make_images(num: int) -> list[tuple[ImageRef, bytes]]:
    """Images 0.png, 1.png, ...; the bytes of each are its name."""
    names = [f"{number}.png" for number in range(num)]
    return [(ImageRef(name, hashlib.sha256(name.encode()).hexdigest()), name.encode()) for name in names]


def cut(images, key="k") -> list[CacheShard]:
    return [shard for shard, _ in shard_stream(images, key)]


def make_row(image: ImageRef, **changes) -> dict:
    row = {"uri": image.uri, "image_id": image.image_id, "label": f"label of {image.uri}", "probability": 0.5,
           "top_k": [{"label": "a", "probability": 0.5}], "status": "ok", "error": image.error}  # fmt: skip
    return row | changes


@pytest.fixture
def cache(tmp_path) -> PredictionCache:
    return PredictionCache(tmp_path / "digits-1-aaaaaaaa", "k")


def write(cache: PredictionCache, name: str, *rows: dict) -> None:
    cache.folder.mkdir(exist_ok=True)
    shard = CacheShard(name, [ImageRef(row["uri"], row["image_id"]) for row in rows])
    shard.rows = list(rows)
    cache.write_shard(shard)


def make_id(begin: int, end: int = 0) -> str:
    return f"{begin:016x}{end:048x}"


def test_the_shards_of_a_source_are_those_of_earlier_versions():
    shards = cut(make_images(1000))
    assert [len(shard.images) for shard in shards] == LENGTHS
    assert shards[0].name == NAME
    assert CacheShard("a", []).is_complete and not CacheShard("a", [ImageRef("a", None)]).is_complete


def test_every_image_is_in_one_shard_with_its_bytes_in_the_order_of_the_source():
    images = make_images(700)
    found = list(shard_stream(images, "k"))
    assert [image for shard, _ in found for image in shard.images] == [image for image, _ in images]
    assert [data for _, each in found for data in each] == [data for _, data in images]
    assert all(64 <= len(shard.images) <= 512 for shard, _ in found[:-1])
    assert all(shard.rows == [None] * len(shard.images) for shard, _ in found)
    assert list(shard_stream([], "k")) == []


def test_a_shard_that_never_ends_by_a_hash_ends_when_it_is_full(monkeypatch):
    monkeypatch.setattr(module, "_ends_shard", lambda image: False)
    assert [len(shard.images) for shard in cut(make_images(1030))] == [512, 512, 6]
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 18)  # of names of five bytes
    assert [len(shard.images) for shard in cut(make_images(10))] == [4, 4, 2]
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 20)
    assert [len(shard.images) for shard in cut(make_images(10))] == [4, 4, 2]
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 21)
    assert [len(shard.images) for shard in cut(make_images(10))] == [5, 5]


def test_a_shard_may_end_at_every_image_after_the_smallest_number(monkeypatch):
    monkeypatch.setattr(module, "_ends_shard", lambda image: True)
    assert [len(shard.images) for shard in cut(make_images(130))] == [64, 64, 2]


def test_an_image_that_comes_or_goes_changes_its_own_shard_only():
    images = make_images(2000)
    before = {shard.name for shard in cut(images)}
    for changed in (images[:700] + images[701:], [*images[:700], *make_images(2001)[-1:], *images[700:]]):
        assert len({shard.name for shard in cut(changed)} - before) <= 2


def test_the_name_of_a_shard_follows_the_key_and_all_that_is_known_of_its_images():
    image = ImageRef("a.png", "1" * 64)
    changed = [ImageRef("b.png", "1" * 64), ImageRef("a.png", "2" * 64), ImageRef("a.png", "1" * 64, "empty: ")]
    names = [cut([(each, b"")])[0].name for each in (image, *changed)] + [cut([(image, b"")], "l")[0].name]
    assert len(set(names)) == 5 and all(len(name) == 32 for name in names)


def test_the_columns_of_a_shard_stand_in_the_order_in_which_tables_show_them(cache):
    write(cache, "a", make_row(ImageRef("0", make_id(0))))
    table = cache.load_shard("a")
    assert table.column_names == ["uri", "image_id", "label", "probability", "top_k", "model_name",
                                  "model_version", "dataset_fingerprint", "status", "error"]  # fmt: skip
    assert [field.name for field in table.schema.field("top_k").type.value_type] == ["label", "probability"]


def test_what_is_written_is_read_back_and_found_by_its_bytes(cache):
    rows = [make_row(ImageRef(f"{number}", make_id(number))) for number in range(4)]
    write(cache, "b", *rows[:2])
    write(cache, "a", *rows[2:])
    (cache.folder / ".c.parquet").touch()
    assert cache.list_shards() == ["a", "b"]
    found = list(cache.iter_rows(["b", "a"]))
    assert [row["uri"] for row in found] == ["0", "1", "2", "3"] and found[0]["model_name"] is None
    answer = cache.find_answer(make_id(3))
    assert answer == {"label": "label of 3", "probability": 0.5, "top_k": [{"label": "a", "probability": 0.5}],
                      "status": "ok", "error": None}  # fmt: skip
    assert cache.find_answer(make_id(4)) is None and cache.find_answer(make_id(3, 1)) is None
    assert cache.load_shard("b", ["uri"]).column_names == ["uri"]
    assert (cache.has_shard("a"), cache.has_shard("c"), cache.load_shard("c")) == (True, False, None)


def test_an_image_of_any_id_is_found(cache):
    ids = ["f" * 64, "0" * 63 + "f", *(hashlib.sha256(bytes([number])).hexdigest() for number in range(20))]
    write(cache, "a", *(make_row(ImageRef(image_id[-3:], image_id)) for image_id in ids))
    assert [cache.find_answer(image_id)["label"] for image_id in ids] == [f"label of {each[-3:]}" for each in ids]


def test_images_whose_ids_begin_alike_are_told_apart(cache):
    rows = [make_row(ImageRef(f"{end}", make_id(7, end))) for end in range(3)]
    write(cache, "a", make_row(ImageRef("x", make_id(9))), *rows)
    assert [cache.find_answer(make_id(7, end))["label"] for end in range(3)] == [f"label of {e}" for e in range(3)]
    assert cache.find_answer(make_id(7, 3)) is None


def test_failures_that_may_pass_and_images_that_could_not_be_read_are_no_answers(cache):
    errors = ["timeout: slow: very", "crashed: x", "empty: ", None]
    rows = [make_row(ImageRef(f"{number}", make_id(number)), error=error) for number, error in enumerate(errors)]
    write(cache, "a", *rows, make_row(ImageRef("unread", None)))
    assert [cache.find_answer(make_id(number)) is not None for number in range(4)] == [False, False, True, True]
    assert len(CacheIndex.from_shards(cache, ["missing", "a"])) == 2
    assert [is_transient(error) for error in errors] == [True, True, False, False]


def test_shards_with_a_failure_that_may_pass_are_computed_again_and_can_be_read_until_then(cache):
    write(
        cache, "a", make_row(ImageRef("0", make_id(0)), error="timeout: slow"), make_row(ImageRef("3", make_id(3)))
    )
    write(cache, "b", make_row(ImageRef("1", make_id(1)), error="empty: "), make_row(ImageRef("2", make_id(2))))
    cache.read_shard("a")
    cache.mark_failures(["a", "b"])
    assert cache.list_shards() == ["a-retried", "b"] and not cache.has_shard("a")
    assert cache.read_shard("a")["uri"].to_pylist() == ["0", "3"]
    write(cache, "b", make_row(ImageRef("4", make_id(4))))
    cache.mark_failures([])
    assert cache.read_shard("b")["uri"].to_pylist() == ["4"]


def test_a_damaged_shard_is_removed_and_one_that_is_gone_ends_the_run(cache):
    write(cache, "a", make_row(ImageRef("0", make_id(0))))
    data = cache.shard_path("a").read_bytes()
    cache.shard_path("a").write_bytes(data[:10] + b"?" + data[11:])
    assert not cache.has_shard("a") and not cache.shard_path("a").exists()
    with pytest.raises(UserError, match=r"a\.parquet: was damaged since this run began"):
        cache.read_shard("a")


@pytest.mark.parametrize(
    ("text", "is_read"), [(None, True), (b"PAR1 and nothing else", False), (b"PK", False), (TORN, False)]
)
def test_a_shard_of_an_earlier_version_has_no_digest_and_is_read_if_it_can_be(cache, text, is_read):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cache.folder.mkdir()
    table = pa.Table.from_pylist([make_row(ImageRef("0", make_id(0)))], schema=module.PREDICTION_SCHEMA)
    pq.write_table(table, cache.shard_path("a"))
    if text is not None:
        cache.shard_path("a").write_bytes(text)
    assert cache.has_shard("a") == is_read


def test_the_lock_removes_what_killed_runs_left_and_forgets_what_was_read(cache):
    write(cache, "a", make_row(ImageRef("0", make_id(0))))
    assert cache.find_answer(make_id(1)) is None
    write(cache, "b", make_row(ImageRef("1", make_id(1))))
    assert cache.find_answer(make_id(1)) is None
    assert cache.read_shard("a")["uri"].to_pylist() == ["0"]
    (cache.folder / ".b.parquet.123.partial").touch()
    os.replace(cache.shard_path("b"), cache.shard_path("a"))
    busy: list[int] = []
    with cache.cache_lock(lambda: busy.append(1)):
        assert sorted(path.name for path in cache.folder.iterdir()) == [".lock", "a.parquet"]
        assert cache.find_answer(make_id(1)) is not None
        assert cache.read_shard("a")["uri"].to_pylist() == ["1"]
        assert str(os.getpid()) in cache.lock_path.read_text()
        with pytest.raises(BlockingIOError), file_lock(cache.lock_path, wait=False):
            pass
    assert busy == []


def test_a_cache_is_of_one_label_an_image_unless_it_is_of_several(tmp_path):
    one, several = PredictionCache(tmp_path, "k"), PredictionCache(tmp_path, "k", True)
    assert (one.key, one.multi_label, several.multi_label) == ("k", False, True)


def test_the_lock_makes_the_folder_and_its_parents(tmp_path):
    cache = PredictionCache(tmp_path / "predictions" / "digits-1-aaaaaaaa", "k")
    with cache.cache_lock(lambda: None):
        assert cache.list_shards() == []
    with cache.cache_lock(lambda: None):
        assert cache.find_answer(make_id(1)) is None
