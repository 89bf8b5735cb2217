"""Fourteen nights (see tests/scenarios/nights.py), then all records compared; `make nights` runs these tests."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.monitoring import batch_log
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from tests.scenarios.agreement import disagreements, found_by
from tests.scenarios.nights import NAME, Nights

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def nights(tmp_path_factory, prefect_server, empty_mlflow_db) -> Nights:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PREFECT_API_URL", prefect_server)
        home = tmp_path_factory.mktemp("nights")
        (home / "project").mkdir()
        shutil.copy(empty_mlflow_db, home / "project" / "mlflow.db")
        lived = Nights(home, prefect_server, logging.getLogger(__name__).info)
        lived.live()
    return lived


@pytest.fixture
def project(nights, monkeypatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(nights.project)
    return nights.project


def test_after_fourteen_nights_all_books_agree(nights, project):
    assert len(nights.nights) == 14
    assert disagreements(nights) == []


def test_the_nights_were_as_eventful_as_they_should_be(nights, project):
    moves = ledger.find_completed(ledger.read_ledger(Project(project)), NAME)
    serves = {entry["version"]: entry["serves"] for entry in moves[:4]}
    assert serves == {1: True, 2: True, 3: False, 4: True}  # first, longer training, bad recipe, after the drift
    assert moves[2]["numbers"]["gain_high"] < 0
    assert [one["event"] for one in moves].count("rollback") == 1
    retrain = [entry for entry in ledger.read_ledger(Project(project)) if entry["event"].startswith("retrain")]
    assert [(one["event"], one["version"]) for one in retrain] == [("retrain", 2), ("retrained", 2)]
    assert f"{NAME} version 4 serves" in retrain[1]["reason"]
    states = {line["source"]: line["state"] for line in batch_log.read_batches(Project(project))}
    assert [states[f"data/inbox/night-{number:02d}"] for number in (2, 4, 7, 8, 9)] == [
        "clean", "clean", "clean", "drifted", "drifted"
    ]  # fmt: skip
    errors = [row for row in pq.read_table("data/predictions/night-04.parquet").to_pylist() if row["error"]]
    assert len(errors) == 3
    assert len(pq.read_table("data/normalized/rejected.parquet")) == 4


def test_the_killed_night_was_closed_by_what_came_next_and_its_work_done(nights, project, capsys):
    killed = nights.killed
    assert (killed.before, killed.after) == (("Running", "RUNNING"), ("Crashed", "KILLED"))
    assert (
        model_registry.connect_registry(Project(project)).get_run(killed.mlflow_run).info.status == "FINISHED"
    )  # it went on
    assert (
        model_registry.find_version_by_run(
            model_registry.connect_registry(Project(project)), NAME, killed.mlflow_run
        ).number
        == 5
    )
    with capsys.disabled():
        print(f"\nthe killed runs were closed {killed.closed_after_s:.1f} s after the next command's start; "
              f"the nights took {nights.cpu_s:.0f} s of CPU")  # fmt: skip


# ---- what does not agree is found ------------------------------------------------------------------------------


@pytest.fixture
def restored(project):
    """Gives files back as they were."""
    kept: dict[Path, bytes] = {}

    def keep(path: Path) -> Path:
        kept[path] = path.read_bytes()
        return path

    yield keep
    for path, data in kept.items():
        path.write_bytes(data)


def test_a_line_taken_out_of_the_ledger_is_found(nights, project, restored):
    path = restored(project / ledger.LEDGER)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    assert "line 3 does not follow from the one before it" in found_by("registry and ledger", nights)[0]


def test_a_decision_taken_out_by_one_who_knows_how_is_found(nights, project, restored):
    """All numbers and links are made anew; what the others remember is not."""
    path, link, written = restored(project / ledger.LEDGER), ledger.FIRST_LINK, []
    gone = next(one["number"] for one in ledger.read_ledger(Project(project)) if one.get("version") == 3)
    for entry in ledger.read_ledger(Project(project)):
        if gone in (entry["number"], entry.get("of")):
            continue
        new = {**entry, "number": len(written) + 1, "follows": link}
        new |= {"of": entry["of"] - 2 * (entry["of"] > gone)} if "of" in entry else {}
        written.append(json.dumps(new, ensure_ascii=False))
        link = hashlib.sha256(written[-1].encode()).hexdigest()
    path.write_text("".join(f"{line}\n" for line in written))
    assert "version 3 is registered, but no line decides on it" in found_by("registry and ledger", nights)
    assert any("but no line decides on it" in line for line in found_by("runs and ledger", nights))
    assert found_by("artifacts of Prefect", nights) != []


def test_a_prediction_that_is_dropped_doubled_or_under_anothers_id_is_found(nights, project, restored):
    night = nights.nights[4]
    table = pq.read_table(restored(night.table))
    pq.write_table(table.slice(1), night.table)
    uri = table["uri"][0].as_py()
    assert found_by("predictions", nights) == [f"{night.table.name}: {uri} has 0 rows, 1 is due"]
    ids = table["image_id"].to_pylist()
    pq.write_table(with_column(table, "image_id", [ids[1], ids[0], *ids[2:]]), night.table)
    assert found_by("predictions", nights) == [
        f"{night.table.name}: {name} stands under the id {other}"
        for name, other in zip(table["uri"].to_pylist()[:2], [ids[1], ids[0]], strict=True)
    ]


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    column = table.schema.get_field_index(name)
    field = table.schema.field(column)
    return table.set_column(column, field, pa.array(values, field.type))


def test_a_row_by_a_version_that_did_not_serve_is_found(nights, project, restored):
    early, late = nights.nights[1].table, nights.nights[6].table
    table = pq.read_table(restored(early))
    versions = [pq.read_table(path)["model_version"][0].as_py() for path in (early, late)]
    assert versions == [1, 2]
    pq.write_table(with_column(table, "model_version", [2] * len(table)), early)
    assert len(found_by("predictions", nights)) == len(table)


def test_an_alias_moved_by_hand_is_found(nights, project):
    client = model_registry.connect_registry(Project(project))
    before = model_registry.read_aliases(client, NAME)
    model_registry.set_alias(client, NAME, "champion", 3)
    try:
        assert any("the aliases are" in line for line in found_by("registry and ledger", nights))
    finally:
        model_registry.set_alias(client, NAME, "champion", before["champion"])


def test_a_run_left_open_is_found(nights, project):
    client = model_registry.connect_registry(Project(project))
    client.update_run(nights.killed.mlflow_run, status="RUNNING")
    try:
        assert found_by("runs and ledger", nights) == [f"run {nights.killed.mlflow_run} is RUNNING"]
    finally:
        client.set_terminated(nights.killed.mlflow_run, "FINISHED")


def test_data_that_is_not_what_dvc_noted_is_found(nights, project, restored):
    path = restored(project / "data/normalized/rejected.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert any("data/normalized/rejected.parquet" in line for line in found_by("data and stages", nights))
