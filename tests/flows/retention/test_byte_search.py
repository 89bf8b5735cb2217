import base64
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.retention import byte_search
from flows.retention.byte_search import ByteSearch, choose_windows, iter_files
from tests.helpers.images import encode_image, encode_noise

PICTURE = encode_noise(1)
PIXELS = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8)


def pack_tar_gz() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("a/b.png")
        info.size = len(PICTURE)
        tar.addfile(info, io.BytesIO(PICTURE))
    return buffer.getvalue()


def pack_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("page.html", pack_html())
    return buffer.getvalue()


def pack_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.stack([np.zeros_like(PIXELS), PIXELS]))
    return buffer.getvalue()


def pack_parquet(values: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": values}), buffer, compression="zstd")
    return buffer.getvalue()


def pack_html() -> bytes:
    return b"<!doctype html><img src='data:image/png;base64," + base64.b64encode(PICTURE) + b"'>"


def pack_mlflow_example() -> bytes:
    """MLflow writes bytes in base64 with line ends."""
    return json.dumps({"data": [[base64.encodebytes(encode_image(PIXELS)).decode()]]}).encode()


PACKED = {
    "bare": b"x" * 77 + PICTURE + b"y",
    "pixels": b"\x93NUMPY" + bytes(122) + PIXELS.tobytes(),
    "gzip": gzip.compress(b"0" * 9 + PICTURE),
    "tar.gz": pack_tar_gz(),
    "a page in a zip": pack_zip(),
    "npz": pack_npz(),
    "parquet": pack_parquet([b"", PICTURE]),
    "a PNG in parquet": pack_parquet([encode_image(PIXELS)]),
    "html": pack_html(),
    "json": pack_mlflow_example(),
    "a PNG of the same pixels": encode_image(PIXELS),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_picture_is_found_in_every_kind_of_file(kind):
    assert ByteSearch.of([PICTURE, PIXELS.tobytes()]).is_in_bytes(PACKED[kind])
    other = ByteSearch.of([encode_noise(3), np.random.default_rng(4).bytes(768)])
    assert not other.is_in_bytes(PACKED[kind])


def test_a_part_of_a_picture_is_found():
    half = len(PICTURE) // 2
    for part in (PICTURE[:half], PICTURE[half:]):
        assert ByteSearch.of([PICTURE]).is_in_bytes(b"1" + part)


def test_a_window_across_two_chunks_is_found(monkeypatch):
    monkeypatch.setattr(byte_search, "CHUNK_BYTES", 1000)
    window = choose_windows(PICTURE)[0]
    search = ByteSearch.of([window])
    for start in range(900, 1001):
        found = list(search.find_in_file(io.BytesIO(b"z" * start + window + b"z" * 2000)))
        assert found == [(start, window)]


def test_a_plain_content_is_no_evidence():
    search = ByteSearch.of([bytes(4096)])
    assert not search.can_find(bytes(4096))
    assert not search.is_in_bytes(bytes(10_000))


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x1f\x8b", b"PAR1", byte_search.PNG, b"{", b"<"])
def test_a_damaged_file_is_searched_as_it_is(head):
    search = ByteSearch.of([PICTURE])
    assert search.is_in_bytes(head + b"damaged" + PICTURE)
    assert not search.is_in_bytes(head + b"damaged" * 20)


def test_what_all_jpeg_files_share_is_no_evidence():
    one, two = (encode_noise(seed, 64, 64, "JPEG") for seed in (5, 6))
    assert one[:600] == two[:600]
    assert ByteSearch.of([one]).is_in_bytes(b"1" + one)
    assert not ByteSearch.of([one]).is_in_bytes(two)


def test_git_and_environments_are_not_searched(tmp_path: Path):
    for name in (".git/x", ".venv/y", "kept/z", "left/out"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    assert list(iter_files(tmp_path, [tmp_path / "left"])) == [tmp_path / "kept/z"]
