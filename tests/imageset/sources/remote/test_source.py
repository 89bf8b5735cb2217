"""Sources behind URLs, from a real HTTP server and a real S3 server of this machine."""

from __future__ import annotations

import gc
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageset import rejections
from imageset.check import check_source
from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.sources.factory import open_source
from imageset.sources.remote import source as remote_source
from imageset.sources.remote.source import check_remote
from imageset.sources.remote.url import is_below, is_remote, is_within
from imageset.utils import transient_errors
from imageset.utils.progress import Progress
from imageset.utils.transient_errors import is_transient
from tests.helpers.datasets import pack_folder, write_idx
from tests.helpers.images import encode_noise, make_image_folder
from tests.helpers.photographs import crop_photographs
from tests.helpers.servers import Site, serve_http, serve_s3, write_certificate


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """Garbage collections that pass over all objects of before, which take half a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quick_and_tidy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_collection: None) -> Iterator[None]:
    """No pauses between attempts, and a temporary folder that must be empty when the sources are gone."""
    monkeypatch.setattr(transient_errors, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.fixture
def site() -> Iterator[Site]:
    with serve_http() as running:
        yield running


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 6 parts of photographs in 2 classes."""
    folder = tmp_path_factory.mktemp("cars")
    for name, data in crop_photographs(("airplane", "automobile"), 3).items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    return folder


def contents(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((file.parent.name, file.read_bytes()) for file in folder.rglob("*.jpg"))


def found(source: Any) -> list[tuple[str, bytes]]:
    return sorted((one.label or "", one.read()) for one in source)


# ---- http ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cars.zip", "cars.tar.gz"])
def test_an_archive_behind_a_url_gives_what_its_folder_gives(
    tmp_path: Path, site: Site, cars: Path, name: str
) -> None:
    site.files[f"/data/{name}"] = pack_folder(cars, tmp_path / name).read_bytes()
    source = open_source(f"{site.url}/data/{name}")
    assert (source.name, source.kind) == ("cars", "archive") and found(source) == contents(cars)
    assert source.describe().startswith(f"{site.url}/data/{name}: 6 pictures in 2 classes")
    summary = ingest_source(source, tmp_path / "raw")
    assert summary.num_new == 6 and not ingest_source(f"{site.url}/data/{name}", tmp_path / "raw").changed


@pytest.mark.parametrize("faults", [[503, 503], ["cut"], ["hang up", "cut", 500], [429]])
def test_what_may_pass_is_tried_again(tmp_path: Path, site: Site, cars: Path, faults: list[int | str]) -> None:
    site.files["/cars.zip"] = pack_folder(cars, tmp_path / "cars.zip").read_bytes()
    site.faults["/cars.zip"] = list(faults)
    assert found(open_source(f"{site.url}/cars.zip")) == contents(cars)
    assert site.requests["/cars.zip"] == len(faults) + 1


@pytest.mark.parametrize("fault", [503, "cut"])
def test_what_never_passes_is_given_up_after_four_attempts(site: Site, cars: Path, fault: int | str) -> None:
    site.files["/cars.zip"], site.faults["/cars.zip"] = b"x" * 1000, [fault] * 9
    with pytest.raises(ConnectionError, match=r"cars\.zip: .* after 4 attempts") as caught:
        open_source(f"{site.url}/cars.zip")
    assert site.requests["/cars.zip"] == 4 and is_transient(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "no such file"), (403, "access is denied"), (401, "access is denied"), (418, "418")],
)
def test_what_will_not_pass_is_said_at_once(site: Site, status: int, message: str) -> None:
    site.files["/cars.zip"], site.faults["/cars.zip"] = b"x", [status] * 9
    for look in (open_source, check_remote):
        site.requests.clear()
        with pytest.raises(UserError, match=rf"^{site.url}/cars\.zip: .*{message}") as caught:
            look(f"{site.url}/cars.zip")
        assert site.requests["/cars.zip"] == 1 and "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_a_failure_that_may_pass() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match="after 4 attempts"):
        open_source(f"http://127.0.0.1:{port}/cars.zip")
    check_remote(f"http://127.0.0.1:{port}/cars.zip")


def test_a_damaged_archive_is_called_by_its_url(tmp_path: Path, site: Site, cars: Path) -> None:
    site.files["/cars.tar.gz"] = pack_folder(cars, tmp_path / "cars.tar.gz").read_bytes()[:-500]
    with pytest.raises(UserError, match=rf"^{site.url}/cars\.tar\.gz: damaged archive"):
        open_source(f"{site.url}/cars.tar.gz")


def table(cars: Path) -> bytes:
    files = [file.relative_to(cars).as_posix() for file in sorted(cars.rglob("*.jpg"))]
    return ("file,breed\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in files)).encode()


def test_the_pictures_of_a_table_behind_a_url_lie_beside_it(tmp_path: Path, site: Site, cars: Path) -> None:
    site.add_folder(cars, "/set/")
    site.files["/set/cars.csv"] = table(cars)
    name = next(name for name in site.files if name.endswith(".jpg"))
    site.faults[name] = [503, "cut"]
    source = open_source(f"{site.url}/set/cars.csv?label=breed")
    assert found(source) == contents(cars) and source.name == "cars"
    assert site.requests[name] == 3
    del site.files[name]
    assert ingest_source(f"{site.url}/set/cars.csv?label=breed", tmp_path / "raw").num_unreadable == 1
    (row,) = [row for row in read_records(tmp_path / "raw").to_pylist() if row["reason"]]
    assert (row["reason"], row["detail"]) == ("unreadable", "no such file or folder")


@pytest.mark.parametrize("behind_a_url", [True, False])
def test_a_table_sends_nobody_anywhere_else(tmp_path: Path, site: Site, behind_a_url: bool) -> None:
    site.files["/secret.png"] = encode_noise(1)
    with serve_http() as other:
        other.files["/a.png"] = encode_noise(2)
        rows = [
            f"{other.url}/a.png",
            "../secret.png",
            f"{site.url}/secret.png",
            "file:///etc/passwd",
            "/etc/passwd",
        ]
        text = "path,label\n" + "".join(f"{path},{number % 2}\n" for number, path in enumerate(rows))
        site.files["/set/t.csv"] = text.encode()
        (tmp_path / "t.csv").write_text(text)
        source = f"{site.url}/set/t.csv" if behind_a_url else str(tmp_path / "t.csv")
        summary = ingest_source(source, tmp_path / "raw")
        assert (summary.num_images, summary.num_unreadable) == (5, 5)
        assert not other.requests and not site.requests["/secret.png"]


@pytest.mark.parametrize("path", [
    "../secret.png", "%2e%2e/secret.png", "..%2fsecret.png", "%252e%252e/secret.png", "..\\secret.png",
    ".\t./secret.png", "%2e%2e%5csecret.png", "a/%2E%2E/%2e./../secret.png", "//127.0.0.1/secret.png",
    "\\\\127.0.0.1\\secret.png", "away.png", "up.png", "encoded.png", "in-circles.png",
])  # fmt: skip
def test_neither_a_path_nor_a_redirect_leaves_the_folder_of_a_table(site: Site, path: str) -> None:
    site.files |= {"/secret.png": encode_noise(1), "/set/a.png": encode_noise(3), "/set/b.png": encode_noise(4)}
    with serve_http() as other:
        other.files["/a.png"] = encode_noise(2)
        site.redirects |= {
            "/set/away.png": f"{other.url}/a.png",
            "/set/up.png": "../secret.png",
            "/set/encoded.png": "/set/%2e%2e/secret.png",
            "/set/in-circles.png": "in-circles.png",
            "/set/moved.png": "/set/b.png",
        }
        rows = [path, "a.png", "moved.png"]
        site.files["/set/t.jsonl"] = "\n".join(
            json.dumps({"path": row, "label": str(number % 2)}) for number, row in enumerate(rows)
        ).encode()
        first, *others = open_source(f"{site.url}/set/t.jsonl")
        with pytest.raises(rejections.Rejected, match=r"outside the table's folder|again and again|no such file"):
            first.read()
        assert [image.read() for image in others] == [encode_noise(3), encode_noise(4)]
        assert not other.requests and not site.requests["/secret.png"]


def test_what_is_below_a_folder_is_read_whatever_its_name(site: Site) -> None:
    names = ["a..b/..c.png", "100%.png", "é 👨‍👩‍👧.png", "x@y.png"]
    assert all(map(is_below, names))
    assert is_within("https://host/set/a.png", "http://host/set") and not is_within(
        "http://host/set", "http://host/set"
    )
    assert not is_within("http://host:8080/set/a.png", "http://host/set")


def test_idx_files_behind_a_url_bring_their_labels(site: Site, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 7), np.uint8)
    for name in ("train", "t10k"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", pixels, True)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.array([3, 4, 3, 4], np.uint8), True)
    for file in tmp_path.glob("*.gz"):
        site.files[f"/mnist/{file.name}"] = file.read_bytes()
    assert open_source(f"{site.url}/mnist/train-images-idx3-ubyte.gz").splits == {"train": 4}
    both = open_source(f"{site.url}/mnist/{{train,t10k}}-images-idx3-ubyte.gz")
    assert both.splits == {"train": 4, "test": 4} and both.name == "mnist"


def test_shards_behind_a_url_are_named_by_braces(tmp_path: Path, site: Site, cars: Path) -> None:
    for number, label in enumerate(("airplane", "automobile")):
        (tmp_path / label).mkdir()
        (tmp_path / label / label).symlink_to(cars / label)
        name = f"/{'train' if number else 'val'}/{number:02d}.tar"
        files = [(f"{label}/{file.name}", file.read_bytes()) for file in sorted((cars / label).iterdir())]
        from tests.helpers.datasets import pack_members

        site.files[name] = pack_members(tmp_path / f"{number}.tar", files).read_bytes()
    with pytest.raises(UserError, match=r"val/01\.tar: no such file"):
        open_source(f"{site.url}/val/{{00..01}}.tar")
    source = open_source(f"{site.url}/{{val/00,train/01}}.tar")
    assert found(source) == contents(cars) and source.splits == {"train": 3, "val": 3}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://localhost/flowers/", "a folder behind http cannot be listed; give the address of an archive"),
        (
            "s3://user:secret@bucket/a.zip",
            r"s3://user:\*\*\*@bucket/a.zip: a password in the URL is not supported",
        ),
        ("https://localhost/a.zip?token=***", "its credentials are not stored; give the source again"),
        ("https://user:***@localhost/a.zip", "its credentials are not stored; give the source again"),
        ("https://[secret/a.zip", "not an address"),
        ("htps://localhost/a.zip", "'htps' is not a known scheme; did you mean 'https'"),
        ("s4://bucket/a.zip", "'s4' is not a known scheme; known names: file, gs"),
        ("file://server/share/a.zip", "names another machine"),
    ],
)
def test_a_url_that_leads_nowhere_is_explained_unasked(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_source(url)
    assert "secret" not in str(caught.value)
    if is_remote(url):
        with pytest.raises(UserError, match=message):
            check_remote(url)


def test_a_file_system_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    for name in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    for scheme, extra in (("gs", "gcs"), ("s3", "s3")):
        with pytest.raises(UserError, match=rf"pip install .*\[{extra}\]'"):
            open_source(f"{scheme}://bucket/flowers")


def test_a_fetch_says_how_far_it_is(site: Site) -> None:
    site.files["/big.zip"] = bytes(5_000_000)
    said = io.StringIO()
    with pytest.raises(UserError, match="damaged archive"):
        open_source(f"{site.url}/big.zip", progress=Progress("x", stream=said, seconds_between_lines=0))
    assert "x: downloading big.zip: " in said.getvalue() and said.getvalue().endswith("5/5 MB (100%)\n")


def test_an_archive_that_does_not_fit_is_not_begun(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 0, 10**6))
    site.files["/big.zip"] = bytes(2_000_000)
    with pytest.raises(UserError, match="set TMPDIR to a folder on a larger disk"):
        open_source(f"{site.url}/big.zip")


def test_a_url_is_checked_as_a_folder_is(tmp_path: Path, site: Site, cars: Path) -> None:
    site.files["/cars.zip"] = pack_folder(cars, tmp_path / "cars.zip").read_bytes()
    report = check_source(f"{site.url}/cars.zip", workers=1)
    assert report.num_sound == 6 and f"{site.url}/cars.zip: 6 pictures" in report.to_text()


def test_a_file_url_is_the_file(tmp_path: Path, cars: Path) -> None:
    (tmp_path / "a b").mkdir()
    archive = pack_folder(cars, tmp_path / "a b" / "cars.zip")
    assert found(open_source(archive.as_uri())) == contents(cars)
    (cars / "t.csv").write_bytes(table(cars))
    assert len(open_source(f"{(cars / 't.csv').as_uri()}?label=breed")) == 6
    assert len(open_source(cars.as_uri())) == 6
    (cars / "t.csv").unlink()


def test_memory_is_a_place_like_another(cars: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for file in cars.rglob("*.jpg"):
        fs.pipe_file(f"/cars/train/{file.relative_to(cars).as_posix()}", file.read_bytes())
    source = open_source("memory://cars")
    assert found(source) == contents(cars) and source.splits == {"train": 6} and source.name == "cars"


# ---- https -----------------------------------------------------------------------------------------------------


def test_over_https_the_server_must_be_the_one_it_says(tmp_path: Path, cars: Path) -> None:
    write_certificate(tmp_path / "own.pem")
    with serve_http(tmp_path / "own.pem") as site:
        site.files["/cars.zip"] = pack_folder(cars, tmp_path / "cars.zip").read_bytes()
        for look in (open_source, check_remote):
            with pytest.raises(
                UserError, match=r"certificate is not trusted .* set SSL_CERT_FILE to its path"
            ) as caught:
                look(f"{site.url}/cars.zip")
            assert "\n" not in str(caught.value)
        code = (
            "from imageset.sources.factory import open_source\n"
            f"print(open_source('{site.url}/cars.zip').describe())"
        )
        trusting = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "own.pem")}
        done = subprocess.run(
            [sys.executable, "-c", code], env=trusting, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"{site.url}/cars.zip: 6 pictures in 2 classes")


def test_credentials_are_used_and_never_shown(tmp_path: Path, site: Site, cars: Path, capfd: Any) -> None:
    site.files["/cars.zip"] = pack_folder(cars, tmp_path / "cars.zip").read_bytes()
    site.faults["/cars.zip"] = [503]
    host, query = site.url.removeprefix("http://"), "X-Amz-Credential=A%2Fb&X-Amz-Signature=sesame%2F9&v=1"
    source = open_source(f"http://user:sesame@{host}/cars.zip?{query}")
    assert found(source) == contents(cars) and source.name == "cars"
    assert site.asked == 2 * [(f"/cars.zip?{query}", "Basic dXNlcjpzZXNhbWU=")]
    assert source.describe().startswith(f"http://user:***@{host}/cars.zip: 6 pictures")
    site.faults["/cars.zip"] = [403] * 9
    with pytest.raises(UserError, match="access is denied") as caught:
        check_source(f"http://user:sesame@{host}/cars.zip?{query}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError) as never:
        open_source(f"http://user:sesame@{closed}/cars.zip?{query}")
    assert "sesame" not in f"{source.describe()} {caught.value} {never.value} {capfd.readouterr()}"


def test_a_signed_table_finds_its_pictures_with_the_same_login(tmp_path: Path, site: Site, cars: Path) -> None:
    site.add_folder(cars, "/set/")
    site.files["/set/cars.csv"] = table(cars) + b"https://user:sesame@a.org/a.jpg?token=sesame,automobile\n"
    host = site.url.removeprefix("http://")
    ingest_source(f"http://user:sesame@{host}/set/cars.csv?label=breed&token=sesame", tmp_path / "raw")
    assert site.asked[0] == ("/set/cars.csv?token=sesame", "Basic dXNlcjpzZXNhbWU=")
    assert {login for _, login in site.asked} == {"Basic dXNlcjpzZXNhbWU="}
    records = read_records(tmp_path / "raw").to_pylist()
    assert sum(row["image_id"] is not None for row in records) == 6 and "sesame" not in str(records)


def test_a_login_may_stand_in_netrc(
    tmp_path: Path, site: Site, cars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/cars.zip"] = pack_folder(cars, tmp_path / "cars.zip").read_bytes()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password sesame\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(open_source(f"{site.url}/cars.zip")) == 6
    assert site.asked == [("/cars.zip", "Basic dXNlcjpzZXNhbWU=")]


# ---- S3 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a running S3 server, to put things there."""
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    with serve_s3() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        yield boto3.client("s3", endpoint_url=address)


@pytest.fixture
def bucket(s3: Any, cars: Path) -> str:
    """A bucket with the pictures at sets/cars/CLASS/."""
    s3.create_bucket(Bucket="things")
    listed = s3.list_objects_v2(Bucket="things").get("Contents", [])
    for one in listed:
        s3.delete_object(Bucket="things", Key=one["Key"])
    for file in cars.rglob("*.jpg"):
        s3.put_object(Bucket="things", Key=f"sets/cars/{file.relative_to(cars)}", Body=file.read_bytes())
    return "things"


def test_a_folder_of_a_bucket_is_read_as_one_of_this_machine(s3: Any, bucket: str, cars: Path) -> None:
    for name in (".hidden.jpg", "airplane/notes.txt", "folder/"):
        s3.put_object(Bucket=bucket, Key=f"sets/cars/{name}", Body=b"")
    for url in (f"s3://{bucket}/sets/cars", f"s3://{bucket}/sets/cars/"):
        source = open_source(url)
        assert [(one.uri, one.label) for one in source] == [
            (file.relative_to(cars).as_posix(), file.parent.name) for file in sorted(cars.rglob("*.jpg"))
        ]
        assert found(source) == contents(cars) and source.name == "cars"
        assert "1 file of another kind" in source.describe()


def test_an_ingest_of_a_grown_bucket_packs_only_what_is_new(
    s3: Any, bucket: str, cars: Path, tmp_path: Path
) -> None:
    url = f"s3://{bucket}/sets/cars"
    ingest_source(url, tmp_path / "raw")
    shard, before = tmp_path / "raw" / "shard-00000.tar", read_records(tmp_path / "raw")
    packed = shard.read_bytes()
    key, moved = "sets/cars/airplane", sorted((cars / "airplane").iterdir())[0]
    s3.put_object(Bucket=bucket, Key=f"{key}/new.png", Body=encode_noise(1))
    summary = ingest_source(url, tmp_path / "raw")
    assert (summary.num_new, summary.num_known, summary.num_shards) == (1, 6, 1)
    s3.delete_object(Bucket=bucket, Key=f"{key}/new.png")
    assert ingest_source(url, tmp_path / "raw").num_absent == 1
    s3.delete_object(Bucket=bucket, Key=f"{key}/{moved.name}")
    s3.put_object(Bucket=bucket, Key=f"sets/cars/automobile/moved-{moved.name}", Body=moved.read_bytes())
    summary = ingest_source(url, tmp_path / "raw")
    assert (summary.num_new, summary.num_shards, summary.classes) == (0, 0, {"airplane": 2, "automobile": 4})
    assert shard.read_bytes() == packed and len(before) == 6


def test_archives_tables_and_shards_of_a_bucket_are_understood(
    s3: Any, bucket: str, cars: Path, tmp_path: Path
) -> None:
    s3.put_object(Bucket=bucket, Key="one/cars.zip", Body=pack_folder(cars, tmp_path / "cars.zip").read_bytes())
    s3.put_object(Bucket=bucket, Key="sets/cars/t.csv", Body=table(cars))
    shard = pack_folder(cars, tmp_path / "0.tar").read_bytes()
    for name in ("train/0.tar", "val/0.tar"):
        s3.put_object(Bucket=bucket, Key=f"shards/{name}", Body=shard)
    assert found(open_source(f"s3://{bucket}/one/cars.zip")) == contents(cars)
    assert found(open_source(f"s3://{bucket}/sets/cars/t.csv?label=breed")) == contents(cars)
    for url in (
        f"s3://{bucket}/shards",
        f"s3://{bucket}/shards/*/0.tar",
        f"s3://{bucket}/shards/{{train,val}}/0.tar",
    ):
        assert open_source(url).splits == {"train": 6, "val": 6}
    assert check_source(f"s3://{bucket}/sets/cars", workers=1).num_sound == 6


@pytest.mark.parametrize(
    "path", ["no-such-bucket/sets", "things/no-such-folder", "things/no-such-file.zip", "things/sets/car"]
)
def test_what_is_not_in_a_bucket_is_said_in_one_line(bucket: str, path: str) -> None:
    with pytest.raises(UserError, match=rf"^s3://{path}: (holds no files|no such file or folder)") as caught:
        open_source(f"s3://{path}")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file or folder"):
        check_remote(f"s3://{path}")


def test_a_bucket_without_pictures_is_named(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="texts/readme.md", Body=b"#")
    with pytest.raises(UserError, match="holds 1 file but no pictures"):
        open_source(f"s3://{bucket}/texts")


def test_missing_credentials_are_said_in_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for look in (open_source, check_remote):
        with pytest.raises(UserError, match=r"^s3://things/sets/cars: no credentials were found"):
            look("s3://things/sets/cars")


# ---- what is tried again ---------------------------------------------------------------------------------------


def test_pictures_read_ahead_keep_their_order_and_their_refusals(tmp_path: Path) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=60)
    with (folder / "ant" / "0005.png").open("wb") as file:
        file.truncate(300_000_000)
    source = open_source(folder)
    ahead = list(remote_source.read_ahead(iter(source)))
    assert [one.uri for one in ahead] == [one.uri for one in source]
    reasons = Counter()
    for one in ahead:
        try:
            assert one.read() == (folder / one.uri).read_bytes()
        except rejections.Rejected as rejected:
            reasons[rejected.reason] += 1
    assert reasons == {"bomb": 1}


def test_reading_ahead_ends_when_nobody_reads_on(tmp_path: Path) -> None:
    import threading

    pictures = remote_source.read_ahead(iter(open_source(make_image_folder(tmp_path / "set", num_each=60))))
    next(pictures)
    assert any(one.name.startswith("read-ahead") for one in threading.enumerate())
    pictures.close()
    assert not any(one.name.startswith("read-ahead") for one in threading.enumerate())


@pytest.mark.parametrize(
    ("code", "status", "passes"),
    [
        ("SlowDown", 503, True),
        ("InternalError", 500, True),
        ("RequestTimeout", 400, True),
        ("AccessDenied", 403, False),
        ("ExpiredToken", 400, False),
        ("NoSuchKey", 404, False),
    ],
)
def test_what_s3_says_is_sorted_into_what_may_pass_and_what_will_not(code: str, status: int, passes: bool) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    asked = []

    def read() -> bytes:
        asked.append(code)
        raise translate_boto_error(ClientError(answer, "GetObject"))  # type: ignore[arg-type]

    with pytest.raises(ConnectionError if passes else UserError, match=r"^s3://b/x: "):
        transient_errors.call_with_retries("s3://b/x", read)
    assert len(asked) == (4 if passes else 1)


TABLE_OF_WINDOWS = "path;label\r\nimg\\a.png;x\r\n img/B.PNG ;y\r\nC:\\data\\img\\c.png;x\r\nd;y\r\n"


def test_a_table_of_another_system_in_a_bucket_finds_its_pictures() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for number, name in enumerate(("img/a.png", "img/b.png", "img/c.png", "img/d.png")):
        memory.pipe(f"/tables/{name}", encode_noise(number))
    memory.pipe("/tables/t.csv", TABLE_OF_WINDOWS.encode("utf-16"))
    source = open_source("memory://tables/t.csv")
    assert [(image.uri, image.read()) for image in source] == [
        (f"img/{name}.png", encode_noise(number)) for number, name in enumerate("abcd")
    ]
    for said in ("in UTF-16", "separated by semicolons", "4 paths repaired", "backslashes read as slashes 2"):
        assert said in source.describe()
    memory.pipe("/tables/u.csv", b"path,label\na,x\n../b,y\n")
    inner = open_source("memory://tables/u.csv?root=img&ending=png")
    assert [image.read() for image in inner] == [encode_noise(0), encode_noise(1)]


def test_a_table_of_another_system_behind_http_finds_its_pictures(site: Site) -> None:
    for number, name in enumerate(("a", "b")):
        site.files[f"/set/img/{name}.png"] = encode_noise(number)
    site.files["/set/t.csv"] = b"path;label\r\nimg\\a.png;x\r\n img/b.png ;y\r\n"
    source = open_source(f"{site.url}/set/t.csv")
    assert [image.read() for image in source] == [encode_noise(0), encode_noise(1)]
    assert "2 paths repaired (backslashes read as slashes 1, blanks around them removed 1)" in source.describe()
    site.files["/set/u.csv"] = b"path,label\na,x\nb,y\n"
    inner = open_source(f"{site.url}/set/u.csv?root=img&ending=.png")
    assert [image.read() for image in inner] == [encode_noise(0), encode_noise(1)]


def test_a_table_in_a_bucket_that_must_not_be_listed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/closed/a.png", encode_noise(0))
    memory.pipe("/closed/t.csv", b"path,label\na.png,x\n.\\a.png,y\n")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("ListBucket is denied")

    monkeypatch.setattr(type(memory), "find", refuse)
    assert [image.read() for image in open_source("memory://closed/t.csv")] == [encode_noise(0)] * 2
