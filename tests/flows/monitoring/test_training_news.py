import subprocess
import sys
from pathlib import Path

import pytest

from flows.ingest import read_label_table, read_source
from flows.monitoring.training_news import TrainingNews, describe_labeling, find_training_news, list_new_labels
from flows.project.project import Project
from flows.versioning import dvc_repo
from flows.versioning.source_check import check_source_change
from tests.helpers.images import encode_noise, make_image_folder
from tests.helpers.project import copy_params, set_params
from tests.helpers.reviews import write_review

STAGES = """stages:
  normalize:
    cmd: mkdir -p data/normalized && cp data/raw/records.parquet data/normalized
    deps: [data/raw]
    params: [normalize]
    outs: [data/normalized]
  train:
    cmd: mkdir -p data/models/classifier && cp data/normalized/records.parquet data/models/classifier
    deps: [data/normalized]
    params: [train]
    outs: [data/models/classifier]
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    """A project that has ingested its folder `pictures` and run two stages that stand for ours."""
    monkeypatch.chdir(tmp_path)
    copy_params(tmp_path, "ants")
    project = Project(tmp_path)
    read_source.fn(str(make_image_folder(tmp_path / "pictures", num_each=4)), project)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    dvc_repo.add_raw(project, "pictures", "ants")
    run_stages(tmp_path)
    return project


def run_stages(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, check=True)


def test_news_are_new_pictures_labels_and_parameters_until_a_training_has_seen_them(project):
    assert list_new_labels(project) == []
    (project / "pictures" / "ant" / "new.png").write_bytes(encode_noise(70))
    set_params(project.folder, train__seed_everything=7)
    review = str(write_review(project / "out.review"))
    table = check_source_change(review, project, replace_source=False)
    read_label_table.fn(table, project, "Anna", False)
    dvc_repo.add_raw(project, "pictures", "ants")
    news = find_training_news(project)
    assert (news.num_images, news.num_labels, news.tables) == (1, 2, ("out.review/review.csv",))
    assert news.describe().startswith("2 new labels (out.review/review.csv), 1 new picture, params.yaml")
    assert not any("data/raw" in change for change in news.changes)  # said by the labels

    (project / "pictures" / "ant" / "new.png").unlink()
    run_stages(project.folder)
    assert not find_training_news(project) and list_new_labels(project) == []


def test_news_are_named_and_many_changes_are_counted():
    assert not TrainingNews() and TrainingNews(num_images=1) and TrainingNews(changes=("x changed",))
    assert TrainingNews(14, ("review.csv",)).describe() == "14 new labels (review.csv)"
    changes = tuple(f"{name} changed" for name in "abcde")
    assert TrainingNews(changes=changes).describe() == "a changed, b changed, c changed, 2 more changes"


def test_the_advice_names_the_commands_and_the_file_to_fill_in():
    assert describe_labeling("in box", "0123", 80) == (
        "label 50 of these first: `convoy predict 'in box' --out data/monitor/0123.parquet --review 50`, "
        "fill in data/monitor/0123.review/review.csv, then `convoy run data/monitor/0123.review/review.csv`"
    )
    for source in ("out.parquet", "a.png and 2 more files"):
        assert "`convoy predict SOURCE --out" in describe_labeling(source, "0123", 80)
    assert describe_labeling("inbox", "0123", 20).startswith("label 20 of these first")
