"""A label table is told from a source on every road, and the project's source stays what it was."""

import getpass
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.ingest import read_label_table, read_source
from flows.project.project import Project
from flows.reports.status import report_data
from flows.versioning.label_tables import find_annotator, name_table
from flows.versioning.source_check import check_source, check_source_change, report_source
from imageset.exceptions import UserError
from imageset.raw.label_log import read_label_log
from imageset.raw.records import read_records
from tests.helpers.images import make_image_folder
from tests.helpers.project import copy_params
from tests.helpers.reviews import NEW, write_review
from tests.helpers.servers import serve_http


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """A project whose pictures come from its folder `pictures`, without git and DVC."""
    monkeypatch.setattr("flows.versioning.source_check.check_data_folder", lambda project: None)
    monkeypatch.chdir(tmp_path)
    copy_params(tmp_path, "ants")
    project = Project(tmp_path)
    read_source.fn(str(make_image_folder(tmp_path / "pictures", num_each=10)), project)
    (tmp_path / "data" / "raw.dvc").write_text(
        "meta: {source: pictures, name: ants}\nouts: [{path: raw, md5: 0123456789ab.dir}]\n"
    )
    return project


def ingest(project: Project, source: str, by: str | None = "Anna", resolve: bool = False) -> None:
    check_source(source, project, labeled_by=by, resolve=resolve)
    table = check_source_change(source, project, replace_source=False)
    assert table is not None
    read_label_table.fn(table, project, by, resolve)


@pytest.mark.parametrize("spelling", ["out.review/review.csv", "./out.review/review.csv?label=label", "file://{}"])
def test_a_review_is_a_label_table_on_every_road(spelling, project, tmp_path):
    review = write_review(tmp_path / "out.review")
    ingest(project, spelling.format(review))
    state = read_label_log(project / "data/raw")
    assert state.count() == {"corrected": 1, "added": 1, "disputed": 0}
    line = json.loads((project / "data/raw/label_log.jsonl").read_text().splitlines()[0])
    assert (line["annotator"], line["table"]) == ("Anna", "out.review/review.csv")
    summary = read_source.fn("pictures", project)  # the nightly run
    assert not summary.changed and summary.num_added == 1


def test_the_same_table_is_a_source_where_it_is_said_or_nothing_else_is_there(project, tmp_path):
    review = str(write_review(tmp_path / "out.review"))
    assert check_source_change(review, project, replace_source=True) is None
    (project / "data/raw.dvc").write_text(f"meta: {{source: {review}, name: ants}}\n")
    assert check_source_change(f"{review}?label=label", project, replace_source=False) is None
    (project / "data/raw.dvc").unlink()
    assert check_source_change(review, project, replace_source=False) is None


def test_a_table_without_image_ids_is_refused_with_the_ways_out(project, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\npictures/ant/0000.png,bee\npictures/bee/0000.png,ant\n")
    with pytest.raises(
        UserError, match=r"come from pictures; .*--replace-source; labels .* need a column image_id"
    ):
        check_source("t.csv", project)
    report = report_source("t.csv", project)
    assert report.project_problem and "--replace-source" in report.project_problem


@pytest.mark.parametrize(("by", "resolve", "option"), [("Anna", False, "--by"), (None, True, "--resolve")])
def test_options_of_label_tables_are_refused_for_a_source(by, resolve, option, project):
    with pytest.raises(UserError, match=f"{option} is only for a table of labels"):
        check_source("pictures", project, labeled_by=by, resolve=resolve)


def test_check_says_what_an_ingest_would_do_and_writes_nothing(project, tmp_path):
    review = str(write_review(tmp_path / "out.review"))
    before = sorted((file, file.read_bytes()) for file in (project / "data/raw").iterdir())
    report = report_source(review, project, tmp_path / "report.json")
    assert str(report).splitlines() == [
        "out.review/review.csv: 2 labels: 1 new picture, 1 relabelled",
        "convoy ingest would add these labels to the project's pictures",
    ]
    labels = json.loads((tmp_path / "report.json").read_text())["labels"]
    assert (labels["num_new"], labels["num_relabelled"]) == (1, 1)
    assert sorted((file, file.read_bytes()) for file in (project / "data/raw").iterdir()) == before
    shutil.copy(tmp_path / "pictures/ant/0001.png", tmp_path / "out.review/pictures/0.png")
    report = report_source(review, project)
    assert report.stop_reason and "the file has other bytes" in report.stop_reason
    assert str(report).startswith("convoy ingest would stop: out.review/review.csv: row 1 (pictures/0.png)")


def test_status_says_how_many_labels_people_gave_and_that_they_disagree(project, tmp_path):
    review = str(write_review(tmp_path / "out.review"))
    ingest(project, review)
    problems: list[str] = []
    (line,) = report_data(project, problems)
    assert "; labels of people: 1 corrected, 1 added" in line.text
    text = Path(review).read_text()
    Path(review).write_text(text.replace("0.png,bee", "0.png,ant"))
    ingest(project, review, by="Ben")
    (line,) = report_data(project, problems)
    assert line.values and line.values["labels"] == {"corrected": 1, "added": 0, "disputed": 1}
    assert any(
        "1 picture is held out, since people disagree (Anna says bee, Ben says ant)" in text for text in problems
    )
    ingest(project, review, by="Ben", resolve=True)
    assert read_label_log(project / "data/raw").count()["disputed"] == 0


def test_the_annotator_is_the_user_of_git_else_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert find_annotator(Project(tmp_path)) == getpass.getuser()
    subprocess.run(["git", "config", "user.name", "Anna Bell"], cwd=tmp_path, check=True)
    assert find_annotator(Project(tmp_path)) == "Anna Bell"


def test_a_table_outside_of_the_project_is_named_by_its_folder(tmp_path):
    project = Project(tmp_path / "project")
    assert name_table(str(tmp_path / "project" / "a" / "review.csv"), project) == "a/review.csv"
    assert name_table(str(tmp_path / "out.review" / "review.csv"), project) == "out.review/review.csv"
    assert name_table("https://user:secret@host/review.csv", project) == "https://user:***@host/review.csv"


def test_a_label_table_behind_a_url_brings_its_pictures(project, tmp_path):
    review = write_review(tmp_path / "out.review")
    with serve_http() as site:
        site.files["/r/review.csv"] = review.read_bytes()
        site.files["/r/pictures/0.png"] = NEW
        ingest(project, f"{site.url}/r/review.csv")
        site.files["/r/t.csv"] = b"path,label\na.png,ant\n"
        with pytest.raises(UserError, match="come from pictures"):
            check_source(f"{site.url}/r/t.csv", project)
    tables = {name for name in read_records(project / "data/raw")["label_table"].to_pylist() if name}
    assert tables == {f"{site.url}/r/review.csv"}
