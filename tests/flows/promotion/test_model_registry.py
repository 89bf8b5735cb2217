import pytest

from flows.project.exceptions import NoChampion, ServerUnavailable
from flows.project.project import Project
from flows.promotion import model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError


@pytest.fixture
def client(project):
    return model_registry.connect_registry(Project(project))


@pytest.fixture
def digits(client) -> list[Version]:
    """Two versions of the model `digits`, none of them serving."""
    client.create_registered_model("digits")
    return [
        model_registry._to_version(client.create_model_version("digits", "/nowhere", run)) for run in ("a", "b")
    ]


def aliases(client, name: str = "digits") -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}


def test_a_challenger_that_does_not_serve_is_named_with_its_reason(client, digits):
    model_registry.set_alias(client, "digits", model_registry.CHALLENGER, 2)
    model_registry.set_version_tags(client, "digits", 2, {model_registry.DECISION_TAG: "it is no better; do that"})
    said = "^no model 'digits' serves yet: version 2 does not, since it is no better; do that$"
    with pytest.raises(NoChampion, match=said):
        model_registry.require_champion(client, "digits")


def run(client, status: str = "FINISHED", **metrics: float) -> str:
    run_id = client.create_run(client.create_experiment(f"e{status}{len(metrics)}")).info.run_id
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    client.set_terminated(run_id, status)
    return run_id


def test_nothing_serves_before_anything_is_registered(client):
    assert model_registry.find_champion_version(client, "digits") is None


def test_a_version_that_cannot_be_loaded_is_named_with_what_to_do(digits):
    said = (
        r"^digits version 1 cannot be used: .*; "
        r"or make the previous version serve: `convoy rollback --model digits`$"
    )
    with pytest.raises(UserError, match=said):
        model_registry.load_version_bundle(digits[0])


def test_a_model_without_champion_is_none_too(client, digits):
    assert model_registry.find_champion_version(client, "digits") is None


def test_without_champion_the_models_that_serve_are_named(client, digits):
    with pytest.raises(NoChampion, match="convoy run FOLDER"):
        model_registry.require_champion(client, "flowers")
    model_registry.set_alias(client, "digits", model_registry.CHAMPION, 1)
    with pytest.raises(NoChampion, match="--model: digits"):
        model_registry.require_champion(client, "flowers")


def test_a_version_is_found_by_its_run(client, digits):
    assert model_registry.find_version_by_run(client, "digits", "b").number == 2
    assert model_registry.find_version_by_run(client, "digits", "c") is None


def test_a_decision_is_read_back(client, digits):
    model_registry.set_version_tags(
        client, "digits", 1, {model_registry.DECISION_TAG: "because", "convoy.num_test": "3"}
    )
    found = model_registry.find_version_by_run(client, "digits", "a")
    assert (found.decision, found.tags["convoy.num_test"]) == ("because", "3")


def test_aliases_are_set_and_taken_away(client, digits):
    assert model_registry.read_aliases(client, "digits") == model_registry.read_aliases(client, "nothing") == {}
    model_registry.set_alias(client, "digits", "champion", 2)
    assert model_registry.read_aliases(client, "digits") == {"champion": 2}
    model_registry.set_alias(client, "digits", "champion", None)
    model_registry.set_alias(client, "digits", "champion", None)
    assert model_registry.read_aliases(client, "digits") == {}


def test_a_run_is_found_by_the_beginning_of_its_id(client):
    whole = run(client)
    assert model_registry.find_run(client, whole[:10]).info.run_id == whole


def test_a_beginning_that_fits_several_runs_is_refused(client, monkeypatch):
    experiment = client.create_experiment("many")
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    found = client.search_runs([experiment])
    monkeypatch.setattr(type(client), "search_runs", lambda *arguments, **named: found)
    with pytest.raises(UserError, match=f"2 runs begin with 'abcd' .*{runs[0][:12]}"):
        model_registry.find_run(client, "abcd")


def test_an_unknown_run_is_named(client):
    with pytest.raises(UserError, match="no run 'abc'"):
        model_registry.require_finished_run(client, "abc")


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_did_not_finish_cannot_be_promoted(client, status):
    with pytest.raises(UserError, match=f"is {status}, not FINISHED"):
        model_registry.require_finished_run(client, run(client, status))


def test_a_run_whose_metrics_are_no_numbers_cannot_be_promoted(client):
    with pytest.raises(UserError, match="val_loss is nan"):
        model_registry.require_finished_run(client, run(client, val_loss=float("nan"), val_accuracy=0.5))


def test_a_run_that_logged_no_model_cannot_be_promoted(client):
    with pytest.raises(UserError, match="logged no model"):
        model_registry.find_model_uri(model_registry.require_finished_run(client, run(client)))


def test_a_server_that_does_not_answer_is_another_error_than_a_broken_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServerUnavailable, match=r"http://127\.0\.0\.1:9"):
        model_registry.connect_registry(Project(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "mlflow.db").write_text("not a database")
    with pytest.raises(UserError, match=r"mlflow\.db"):
        model_registry.connect_registry(Project(tmp_path))
