import json

import pytest

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle
from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.tracking.model_download import load_bundle


def test_the_logged_model_holds_the_same_bundle(trained):
    note = json.loads((trained / "data/models/classifier/run.json").read_text())
    connect_to_mlflow(trained)
    assert load_bundle(note["model_uri"]).digest == Bundle.load(trained / "data/models/classifier").digest


def test_a_model_that_mlflow_does_not_have_is_one_line(trained):
    connect_to_mlflow(trained)
    with pytest.raises(UserError, match="cannot give the model models:/nothing@champion"):
        load_bundle("models:/nothing@champion")
