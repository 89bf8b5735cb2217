import hashlib
from collections.abc import Mapping

import pytest
from timm.data import ImageNetInfo

from lightning_modules.inference import imagenet
from lightning_modules.inference.imagenet import list_imagenet_classes, make_imagenet_bundle
from lightning_modules.inference.stream import score_stream
from tests.helpers.photographs import read_recognizable_photographs
from tests.helpers.real_data import read_photographs


def name_photographs(photographs: Mapping[str, bytes]) -> dict[str, str]:
    bundle = make_imagenet_bundle()
    return {
        scored.key: bundle.info.to_prediction(scored.probabilities)[0]
        for scored in score_stream(bundle, photographs.items(), num_workers=1, batch_size=8)
    }


def test_photographs_get_the_names_of_their_classes():
    photographs = read_recognizable_photographs()
    named = name_photographs({name: data for name, (data, _) in photographs.items()})
    assert named == {name: label for name, (_, label) in photographs.items()}


def test_a_photograph_of_each_of_24_classes_gets_its_name():
    """A test of the names and the preprocessing, not of the accuracy: the photographs may have been trained on."""
    photographs = read_photographs(24)
    classes = dict(zip(ImageNetInfo().label_names(), list_imagenet_classes(), strict=True))
    labels = name_photographs(photographs)
    correct = [labels[synset] == classes[synset] for synset in photographs]
    assert len(correct) == 24 and sum(correct) >= 21
    assert labels["n01440764"] == "tench"


def test_the_1000_names_are_different_and_short():
    classes = list_imagenet_classes()
    assert len(set(classes)) == len(classes) == 1000
    assert classes[0] == "tench" and {classes[134], classes[517]} == {"crane (n02012849)", "crane (n03126707)"}
    assert not any("," in name for name in classes)


def test_the_bundle_claims_no_calibration_and_no_training_data():
    info = make_imagenet_bundle().info
    assert (info.temperature, info.abstain_below, info.thresholds) == (1.0, None, None)
    assert info.dataset == {"name": "imagenet"} and info.metrics == {} and info.git_commit is None
    assert info.decode == {
        "size": 224, "channels": 3, "fit": "crop", "interpolation": "bicubic", "max_pixels": 178_956_970,
        "fidelity": "exact", "crop_fraction": 0.875,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("SHA256", hashlib.sha256().hexdigest()), ("INTERPOLATION", "lanczos")]
)
def test_the_digest_names_the_weights_and_the_preprocessing(monkeypatch, name, value):
    before = make_imagenet_bundle().digest
    assert make_imagenet_bundle().digest == before
    monkeypatch.setattr(imagenet, name, value)
    assert make_imagenet_bundle().digest != before
