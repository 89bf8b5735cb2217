"""A URL goes through the flow as a folder does: noted, remembered, tried again."""

import os
import shutil

import httpx
import pytest

from flows.ingest import read_source, to_portable_source
from flows.project.project import Project
from flows.versioning.source_check import check_source, check_source_change, is_same_source
from imageset.exceptions import UserError
from imageset.raw.records import read_records
from imageset.sources import files
from imageset.utils import transient_errors
from tests.helpers.images import write_digit_images
from tests.helpers.project import copy_params, make_project, run_convoy
from tests.helpers.servers import serve_http


@pytest.fixture
def digits_zip(tmp_path) -> bytes:
    write_digit_images(tmp_path / "digits", "01", num_each=10)
    return (tmp_path / shutil.make_archive(str(tmp_path / "digits"), "zip", tmp_path / "digits")).read_bytes()


def test_convoy_ingests_a_url_and_remembers_it(tmp_path, prefect_server, digits_zip):
    (tmp_path / "project").mkdir()
    project = make_project(tmp_path / "project")
    with serve_http() as site:
        site.files["/sets/digits.zip"] = digits_zip
        site.faults["/sets/digits.zip"] = [503, 503, "cut"]  # the look before the flow, then two attempts
        done = run_convoy(project, "ingest", f"{site.url}/sets/digits.zip", PREFECT_API_URL=prefect_server)
        assert done.returncode == 0, done.stdout
        assert "digits-few: 20 pictures in 2 classes, 20 new" in done.stdout
        assert f"source: {site.url}/sets/digits.zip" in (project / "data" / "raw.dvc").read_text()
        again = run_convoy(project, "ingest", PREFECT_API_URL=prefect_server)
        assert "20 pictures in 2 classes, nothing new" in again.stdout, again.stdout
        site.files.clear()
        gone = run_convoy(project, "ingest", PREFECT_API_URL=prefect_server)
        assert gone.returncode == 2 and "digits.zip: no such file" in gone.stdout.splitlines()[-1]
    assert len(read_records(project / "data" / "raw")) == 20


def test_credentials_in_a_url_are_stored_nowhere(tmp_path, prefect_server, digits_zip):
    (tmp_path / "project").mkdir()
    project = make_project(tmp_path / "project")
    with serve_http() as site:
        site.files["/digits.zip"] = digits_zip
        url = f"http://user:sesame@{site.url.removeprefix('http://')}/digits.zip?v=1&X-Amz-Signature=sesame"
        done = run_convoy(project, "ingest", url, PREFECT_API_URL=prefect_server)
        assert done.returncode == 0 and "20 pictures in 2 classes, 20 new" in done.stdout, done.stdout
        assert site.asked[-1][0] == "/digits.zip?v=1&X-Amz-Signature=sesame"
    masked = url.replace("sesame", "***")
    assert f"source: {masked}" in (project / "data" / "raw.dvc").read_text()
    written = [file for file in project.rglob("*") if file.is_file() and b"sesame" in file.read_bytes()]
    told = httpx.post(f"{prefect_server}/flow_runs/filter", json={}).text
    logged = httpx.post(f"{prefect_server}/logs/filter", json={}).text
    assert not written and "sesame" not in done.stdout + told + logged and masked in told
    again = run_convoy(project, "ingest", PREFECT_API_URL=prefect_server)
    assert again.returncode == 2 and again.stdout.splitlines()[-1].endswith("the source again with the whole URL")


def test_prefect_tries_again_what_may_pass_and_nothing_else(tmp_path, prefect_server, digits_zip, monkeypatch):
    monkeypatch.setattr(transient_errors, "RETRY_PAUSES_S", ())
    copy_params(tmp_path)
    task = read_source.with_options(retry_delay_seconds=0)
    with serve_http() as site:
        site.files["/digits.zip"], site.faults["/digits.zip"] = digits_zip, [503, "cut"]
        assert task(f"{site.url}/digits.zip", Project(tmp_path)).num_new == 20
        assert site.requests["/digits.zip"] == 3
        with pytest.raises(UserError, match="no such file"):
            task(f"{site.url}/other.zip", Project(tmp_path))
        assert site.requests["/other.zip"] == 1


def test_a_folder_is_listed_once_for_the_check_and_the_ingest(tmp_path, monkeypatch):
    project = Project(make_project(tmp_path))
    source = write_digit_images(tmp_path / "digits", "01", num_each=3)
    listed: list[str] = []
    list_folder = files._list_folder

    def count_listing(folder, *arguments):
        listed.append(os.fsdecode(folder))
        return list_folder(folder, *arguments)

    monkeypatch.setattr(files, "_list_folder", count_listing)
    check_source(str(source), project)  # as the command does, before it starts a server
    summary = read_source.fn(str(source), project)
    assert summary.num_new == 6
    assert listed.count(str(source / "1")) == 1  # the first folder is looked at before, to tell images from shards


def test_a_url_is_noted_as_it_is(tmp_path):
    assert to_portable_source("s3://bucket/set?label=x", Project(tmp_path)) == "s3://bucket/set?label=x"
    assert to_portable_source(str(tmp_path / "set"), Project(tmp_path)) == "set"


# ---- the project's name and its source --------------------------------------------------------------------------


@pytest.fixture
def ingested(tmp_path) -> Project:
    """A project called `pets`, whose pictures come from its folder `pictures`."""
    copy_params(tmp_path, "pets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw.dvc").write_text("meta: {source: pictures, name: pets}\n")
    return Project(tmp_path)


def test_another_source_is_refused_with_the_two_ways_out(ingested):
    with pytest.raises(UserError, match=r"come from pictures; .*`convoy init \.\./other`.*--replace-source"):
        check_source_change("cars", ingested, replace_source=False)
    check_source_change("cars", ingested, replace_source=True)
    check_source_change(None, ingested, replace_source=False)


def test_one_source_may_be_called_in_many_ways(ingested, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "link").symlink_to("pictures")
    for source in ("pictures", "pictures/", "./data/../pictures", str(tmp_path / "pictures"), "link"):
        check_source_change(source, ingested, replace_source=False)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("s3://bucket/a", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/b", False),
        (
            "https://h/a.zip?X-Amz-Date=1&X-Amz-Signature=***",
            "https://h/a.zip?X-Amz-Date=2&X-Amz-Signature=x",
            True,
        ),
        ("https://h/a.zip?v=1&sig=***&se=1", "https://h/a.zip?v=2&sig=x&se=1", False),
        ("https://user:***@h/a.zip", "https://user:secret@h/a.zip", True),
        ("pictures", "https://h/pictures", False),
        ("pictures", "pictures?level=2", True),
        ("table.csv?label=a", "./table.csv?label=b", True),
        ("pictures?level=2", "others?level=2", False),
    ],
)
def test_signatures_and_options_do_not_make_another_source_of_one(first, second, same, tmp_path):
    assert is_same_source(first, second, Project(tmp_path)) is same


def test_a_name_that_was_changed_after_an_ingest_is_reported(ingested):
    copy_params(ingested.folder, "dogs")
    with pytest.raises(UserError, match=r"name is dogs, but the data was ingested as pets; write `name: pets`"):
        check_source_change("pictures", ingested, replace_source=False)


def test_the_name_of_the_data_is_that_of_the_project_and_a_new_source_starts_anew(ingested, tmp_path):
    first, second = (
        write_digit_images(tmp_path / name, classes) for name, classes in (("one", "01"), ("two", "23"))
    )
    summary = read_source.fn(str(first), ingested)
    assert (summary.name, summary.num_images) == ("pets", len(list(first.rglob("*.png"))))
    summary = read_source.fn(str(second), ingested, replace_source=True)
    assert summary.num_absent == 0 and set(summary.classes) == {"2", "3"}


def test_a_project_without_a_name_keeps_the_one_that_its_data_has(tmp_path):
    folder = tmp_path / "My Folder"
    folder.mkdir()
    copy_params(folder)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("name: digits-few", "# no name"))
    assert Project(folder).read_name() == "my-folder"
    (folder / "data").mkdir()
    (folder / "data" / "raw.dvc").write_text("meta: {source: x, name: flowers}\n")
    assert Project(folder).read_name() == "flowers"
