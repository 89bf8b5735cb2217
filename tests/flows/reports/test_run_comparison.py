import base64
import re
import shutil
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.promotion import model_registry
from flows.reports.run_comparison import compare_runs
from imageset.exceptions import UserError


def run(client, guesses: dict[str, str], **params: str) -> str:
    """A finished run whose test pictures are all of class `a`."""
    found = client.get_experiment_by_name("digits")
    experiment = found.experiment_id if found else client.create_experiment("digits")
    run_id = client.create_run(experiment).info.run_id
    for name, value in {"lr": "0.1", **params}.items():
        client.log_param(run_id, name, value)
    right = sum(guess == "a" for guess in guesses.values())
    client.log_metric(run_id, "test_accuracy", right / len(guesses))
    client.log_metric(run_id, "recall_a", right / len(guesses))
    rows = [f"{image_id},a,{guess},0.9" for image_id, guess in guesses.items()]
    client.log_text(run_id, "\n".join(["image_id,actual,predicted,probability", *rows]), "report/predictions.csv")
    client.set_terminated(run_id)
    return str(run_id)


@pytest.fixture
def client(project, monkeypatch):
    monkeypatch.chdir(project)
    return model_registry.connect_registry(Project(project))


def test_what_differs_between_two_runs_and_which_pictures_changed_sides(client, project):
    one = run(client, {"p1": "a", "p2": "b", "p3": "b", "only": "a"}, epochs="3")
    other = run(client, {"p1": "b", "p2": "a", "p3": "c"}, epochs="5")
    found = compare_runs(Project(project), one, other)
    assert found.params == [("epochs", "3", "5")]
    assert found.metrics == [("test_accuracy", "0.5000", "0.3333 (-0.1667)")]
    assert found.recalls == [("recall_a", "0.5000", "0.3333 (-0.1667)")]
    assert (found.gained, found.lost) == ([("p2", "a", "b", "a")], [("p1", "a", "a", "b")])
    assert f"of 3 that both were tested on, 1 are right only in {other[:12]}" in str(found)


def test_the_classes_that_changed_most_come_first_and_the_others_not_at_all(client, project):
    runs = [run(client, {"p1": "a"}) for _ in range(2)]
    for name, values in {"b": (0.5, 0.6), "c": (0.9, 0.2), "d": (0.4, 0.4)}.items():
        for run_id, value in zip(runs, values, strict=True):
            client.log_metric(run_id, f"recall_{name}", value)
    rows = [("recall_c", "0.9000", "0.2000 (-0.7)"), ("recall_b", "0.5000", "0.6000 (+0.1)")]
    assert compare_runs(Project(project), *runs).recalls == rows


def test_a_run_that_was_not_evaluated_is_compared_all_the_same(client, project):
    one = run(client, {"p1": "a"})
    other = client.create_run(client.get_experiment_by_name("digits").experiment_id).info.run_id
    found = compare_runs(Project(project), one, other)
    assert found.num_shared is None and "was not evaluated" in str(found)


def test_a_table_that_is_gone_is_not_called_an_evaluation_that_never_was(client, project):
    one, other = run(client, {"p1": "a"}), run(client, {"p1": "a"})
    shutil.rmtree(Path(client.get_run(other).info.artifact_uri.removeprefix("file://")) / "report")
    said = str(compare_runs(Project(project), one, other))
    assert f"run {other[:12]} was evaluated, but report/predictions.csv is missing from " in said


def test_an_unknown_run_is_one_line(client, project):
    with pytest.raises(UserError, match="no run 'abcdef'"):
        compare_runs(Project(project), "abcdef", "abcdef")


def test_the_page_shows_the_pictures_that_changed_sides_and_spells_names_out(client, digits_store, project):
    image_id = digits_store.split("test").image_ids[0]
    one, other = run(client, {image_id: "a"}), run(client, {image_id: "<b>"})
    page = project / "page.html"
    compare_runs(Project(project), one, other, page)
    text = page.read_text()
    assert "first a, then &lt;b&gt;" in text and "<b>" not in text
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"ends in \.html"):
        compare_runs(Project(project), one, other, Path("page.txt"))


@pytest.fixture
def digits_store(project):
    """A few digits, normalized in the project."""

    from imageset.normalize.params import read_normalize_params
    from imageset.normalize.stage import normalize
    from imageset.raw.ingestion import ingest_source
    from imageset.sources.factory import open_source
    from imageset.store.reader import ImageStore
    from tests.helpers.images import write_digit_images
    from tests.helpers.project import copy_params

    copy_params(project)
    ingest_source(open_source(str(write_digit_images(project / "digits", num_each=20))), project / "data/raw")
    normalize(project / "data/raw", project / "data/normalized", read_normalize_params(project / "params.yaml"))
    return ImageStore.open(project / "data/normalized")
