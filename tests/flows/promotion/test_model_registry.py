import pytest

from flows.project.exceptions import NoChampion, ServerUnavailable
from flows.project.project import Project
from flows.promotion import model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from lightning_modules.tracking import tags


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


def train(client, **run_tags: str) -> str:
    """A finished run that has logged a model."""
    experiments = client.search_experiments(filter_string="name = 'trained'")
    experiment = experiments[0].experiment_id if experiments else client.create_experiment("trained")
    run_id = client.create_run(experiment).info.run_id
    logged = client.create_logged_model(experiment, "model", run_id)
    for name, value in {tags.MODEL_TAG: logged.model_id, **run_tags}.items():
        client.set_tag(run_id, name, value)
    client.set_terminated(run_id)
    return run_id


def register(client, run_id: str, name: str = "digits") -> Version:
    uri = model_registry.find_model_uri(client.get_run(run_id))
    return model_registry.register_model(client, name, run_id, uri)


def test_a_model_is_registered_as_the_next_version_of_its_name(client):
    run_id = train(client)
    assert model_registry.is_unregistered(client, run_id)
    versions = [register(client, run_id), register(client, train(client)), register(client, run_id)]
    assert [version.number for version in versions] == [1, 2, 3]
    assert (versions[0].run_id, versions[0].uri, str(versions[0])) == (
        run_id,
        "models:/digits/1",
        "digits version 1",
    )
    assert not model_registry.is_unregistered(client, run_id)
    assert model_registry.find_version_by_run(client, "digits", run_id).number == 3
    assert model_registry.find_version(client, "digits", 2) == versions[1]
    assert model_registry.find_version(client, "digits", 4) is model_registry.find_version(client, "x", 1) is None
    assert client.get_model_version("digits", "2").source == client.get_logged_model(
        client.get_run(versions[1].run_id).data.tags[tags.MODEL_TAG]).artifact_location  # fmt: skip


@pytest.mark.parametrize("name", ["bird's", 'the "best"', "'\"", "50%"])
def test_a_version_is_found_by_its_run_whatever_its_model_is_called(client, name):
    run_id = train(client)
    register(client, run_id, "another")
    register(client, run_id, name)
    assert str(model_registry.find_version_by_run(client, name, run_id)) == f"{name} version 1"


def test_a_restored_model_has_its_old_numbers_and_serves_when_it_is_complete(client, monkeypatch):
    runs = {2: train(client), 4: train(client)}
    set_alias, seen = client.set_registered_model_alias, []

    def observe(name, alias, number):
        seen.append((alias, number, model_registry.needs_restoration(client, name)))
        set_alias(name, alias, number)

    assert model_registry.needs_restoration(client, "digits")
    for _ in range(2):  # the first was killed
        model_registry.restore_versions(client, "digits", runs, 5, {4: {model_registry.DECISION_TAG: "better"}})
    assert model_registry.needs_restoration(client, "digits")
    monkeypatch.setattr(client, "set_registered_model_alias", observe)
    model_registry.finish_restoration(client, "digits", {"champion": 4, "previous": 2})
    assert seen == [("previous", "2", True), ("champion", "4", True)]
    assert not model_registry.needs_restoration(client, "digits")
    found = sorted(client.search_model_versions("name = 'digits'"), key=lambda version: int(version.version))
    assert [(int(version.version), version.run_id) for version in found] == list(runs.items())
    assert [model_registry.find_version(client, "digits", number).decision for number in runs] == [None, "better"]
    assert register(client, runs[2]).number == 6


def test_the_decision_is_the_last_tag_that_a_version_gets(client, digits, monkeypatch):
    set_tag, keys = client.set_model_version_tag, []

    def observe(name, number, key, value):
        keys.append(key)
        set_tag(name, number, key, value)

    monkeypatch.setattr(client, "set_model_version_tag", observe)
    wanted = {"a": "1", model_registry.DECISION_TAG: "2", "z": "3"}
    model_registry.set_version_tags(client, "digits", 1, wanted)
    assert sorted(keys) == sorted(wanted) and keys[-1] == model_registry.DECISION_TAG


def test_tags_of_a_model_are_written_read_and_deleted(client, digits):
    assert model_registry.read_model_tags(client, "nothing") == {}
    model_registry.set_model_tag(client, "digits", "a", "1")
    assert model_registry.read_model_tags(client, "digits") == {"a": "1"}
    model_registry.delete_model_tag(client, "digits", "a")
    assert model_registry.read_model_tags(client, "digits") == {}


def test_a_run_that_was_deleted_is_found_by_its_beginning_and_not_promoted(client):
    run_id = train(client)
    client.delete_run(run_id)
    assert model_registry.find_run(client, run_id[:8]).info.run_id == run_id
    with pytest.raises(UserError, match="deleted"):
        model_registry.require_finished_run(client, run_id)


def test_a_run_that_says_that_a_metric_was_not_finite_is_not_promoted(client):
    assert model_registry.require_finished_run(client, train(client)).info.status == "FINISHED"
    with pytest.raises(UserError, match=r"not finite \(.*val_loss was nan\)"):
        model_registry.require_finished_run(client, train(client, **{f"{tags.NOT_FINITE_PREFIX}val_loss": "nan"}))


@pytest.mark.parametrize("run_id", ["abc", "0" * 4, "0" * 32, "x" * 32, "../x"])
def test_a_run_that_is_nowhere_is_named(client, run_id):
    train(client)
    assert not model_registry.has_run(client, run_id)
    with pytest.raises(UserError, match=f"no run {run_id!r}; `mlflow ui`"):
        model_registry.find_run(client, run_id)


def test_a_run_is_there_by_its_id_and_by_the_beginning_of_it(client):
    run_id = train(client)
    assert model_registry.has_run(client, run_id) and model_registry.has_run(client, run_id[:4])
    assert not model_registry.has_run(client, run_id[:3])


def test_another_error_of_mlflow_is_no_missing_model(client, monkeypatch):
    from mlflow.exceptions import MlflowException

    class Away:
        tracking_uri = "x"

        def __getattr__(self, name):
            raise MlflowException("away")

    calls = [
        lambda: model_registry.find_champion_version(Away(), "a"),
        lambda: model_registry.find_version(Away(), "a", 1),
        lambda: model_registry.read_aliases(Away(), "a"),
        lambda: model_registry.read_model_tags(Away(), "a"),
        lambda: model_registry.needs_restoration(Away(), "a"),
        lambda: model_registry.register_model(Away(), "a", "b", "models:/c"),
        lambda: model_registry.restore_versions(Away(), "a", {1: "b"}, 1, {}),
        lambda: model_registry.find_run(Away(), "a" * 32),
    ]
    for call in calls:
        with pytest.raises(MlflowException, match="away"):
            call()
