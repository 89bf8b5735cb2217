import sys

import numpy as np
import pytest
import torch

from imageset.exceptions import UserError
from imageset.sources.benchmark_sets.digits import load_digit_images
from lightning_modules.bundle import Bundle, BundleInfo
from lightning_modules.inference import availability, engine_selection, engines
from lightning_modules.inference.availability import describe_unavailability, is_lasting_failure
from lightning_modules.inference.engine_selection import AgreementLimits, select_engine
from lightning_modules.inference.engines import make_engine
from lightning_modules.networks.factory import make_network
from lightning_modules.scoring import Scorer
from tests.helpers.datasets import flip_bit
from tests.helpers.models import make_untrained_bundle

EASY, IMPOSSIBLE = AgreementLimits(0.5, 0.5), AgreementLimits(1.1, 0.0)
EVERY = [("pytorch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "int8")]


class Digits:
    """Handwritten digits in the place of a validation split, labelled by the network itself."""

    def __init__(self, bundle: Bundle) -> None:
        pixels, _ = load_digit_images()
        self.images = np.kron(pixels[:80].reshape(80, 8, 8), np.ones((4, 4), np.uint8))[..., np.newaxis]
        self.labels = Scorer(bundle).logits(self.images).argmax(1)

    def __len__(self) -> int:
        return len(self.images)

    def read_batch(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """A small ConvNet with weights drawn once; its last pooling makes more places than there are."""
    layers = {"filters": [8, 16, 16], "kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2}
    head = {"grid": 3, "hidden": [32], "dropout": 0.2, "batch_norm": True}
    network = {"class_path": "lightning_modules.networks.ConvNet", "init_args": layers | head}
    decode = {"size": 32, "channels": 1, "fit": "crop", "interpolation": "bilinear", "max_pixels": 10**6}
    info = BundleInfo(network, tuple("0123456789"), decode, (0.3,), (0.3,), {"fingerprint": "f", "name": "d"}, {})
    torch.manual_seed(0)
    return Bundle(info, make_network(network, 1, 10).eval(), "digest")


@pytest.fixture(scope="module")
def validation(bundle) -> Digits:
    return Digits(bundle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(params=EVERY, ids=" ".join)
def scorer(request, bundle, validation, folder) -> Scorer:
    if why := describe_unavailability(*request.param):
        pytest.skip(why)
    return Scorer(bundle, make_engine(bundle, *request.param, folder, validation))


def test_every_engine_gives_the_same_answers(scorer, bundle, validation):
    images = validation.read_batch(np.arange(64))
    ours, expected = scorer.probabilities(images), Scorer(bundle).probabilities(images)
    if scorer.engine.precision == "fp32":
        assert np.abs(ours - expected).max() < 1e-5
    else:
        assert (ours.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_a_pictures_answer_is_the_same_to_the_last_bit_in_any_company(scorer, validation):
    images = list(validation.read_batch(np.arange(8)))
    among = scorer.score_padded(images, 8)
    alone = np.concatenate([scorer.score_padded([image], 8) for image in images])
    assert np.array_equal(among, alone)
    assert np.array_equal(among, scorer.score_padded(images[::-1], 8)[::-1])


def test_a_faster_precision_is_taken_if_it_agrees_and_says_how_well(bundle, validation, folder):
    if why := describe_unavailability("openvino", "int8"):
        pytest.skip(why)
    engine, found = select_engine(bundle, "auto", "auto", validation, EASY, folder)
    assert (engine.name, engine.precision) == ("openvino", "int8")
    assert "agrees with fp32 on" in found["seen"] and f"of {len(validation)} validation pictures" in found["seen"]


def test_a_precision_that_does_not_agree_is_not_taken(bundle, validation, folder):
    engine, found = select_engine(bundle, "auto", "auto", validation, IMPOSSIBLE, folder)
    assert engine.precision == "fp32"
    assert set(found["refused"]) >= {"openvino int8", "openvino bf16", "pytorch int8"}
    with pytest.raises(UserError, match="--engine openvino --precision int8: openvino int8: "):
        select_engine(bundle, "openvino", "int8", validation, IMPOSSIBLE, folder)


def test_without_validation_pictures_only_fp32_is_taken(bundle, folder):
    assert select_engine(bundle, "pytorch", "auto", None, EASY, folder)[0].precision == "fp32"
    with pytest.raises(UserError, match="precision int8"):
        select_engine(bundle, "auto", "int8", None, EASY, folder)


def test_a_decision_is_made_once(bundle, validation, folder, monkeypatch):
    first = select_engine(bundle, "auto", "fp32", validation, EASY, folder)[1]
    monkeypatch.setattr(engine_selection, "_try_engines", lambda *arguments: pytest.fail("decided again"))
    assert select_engine(bundle, "auto", "fp32", validation, EASY, folder)[1] == first


def test_a_precision_that_the_processor_does_not_have_is_refused(bundle, validation, folder, monkeypatch):
    monkeypatch.setattr(availability, "has_bf16", lambda: False)
    with pytest.raises(UserError, match="this processor has no bf16 arithmetic"):
        select_engine(bundle, "auto", "bf16", validation, EASY, folder)


def test_an_engine_that_cannot_run_a_network_rightly_is_passed_over(tmp_path):
    lenet = make_untrained_bundle(
        tmp_path
    )  # pools by sums: OpenVINO cannot, and PyTorch's ONNX exporter makes means of them
    engine, found = select_engine(lenet, "auto", "fp32", None, EASY, tmp_path / "engines")
    assert engine.name == "pytorch"
    assert set(found["refused"]) == {"openvino fp32", "onnxruntime fp32"}


def test_an_unknown_engine_is_named(bundle, folder):
    with pytest.raises(UserError, match="'openvin': did you mean 'openvino'"):
        select_engine(bundle, "openvin", "fp32", None, EASY, folder)


def test_openvino_reports_to_nobody(bundle, folder):
    if why := describe_unavailability("openvino", "fp32"):
        pytest.skip(why)
    make_engine(bundle, "openvino", "fp32", folder)
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize("position", [0, 0.3, 0.6, 0.9, 1])
def test_a_damaged_network_is_said_and_converted_again(bundle, validation, tmp_path, position):
    lines = []
    first, _ = select_engine(bundle, "onnxruntime", "fp32", validation, EASY, tmp_path, lines.append)
    expected = first.logits(validation.images)
    (network,) = tmp_path.rglob("model.onnx")
    flip_bit(network, position)
    again, _ = select_engine(bundle, "onnxruntime", "fp32", validation, EASY, tmp_path, lines.append)
    assert np.array_equal(again.logits(validation.images), expected)
    (line,) = lines
    assert str(network) in line and line.endswith("removed; the network is converted again")


def test_a_damaged_decision_is_made_again(bundle, validation, tmp_path):
    lines = []
    _, found = select_engine(bundle, "onnxruntime", "fp32", validation, EASY, tmp_path, lines.append)
    flip_bit(next(tmp_path.rglob("engine.json")))
    assert select_engine(bundle, "onnxruntime", "fp32", validation, EASY, tmp_path, lines.append)[1] == found
    assert "the engines are compared again" in lines[0]


@pytest.mark.parametrize(
    "failure",
    [ImportError("interrupted"), MemoryError(), OSError(28, "No space left on device"), AttributeError("half")],
)
def test_a_failure_that_may_pass_is_not_remembered(bundle, validation, tmp_path, monkeypatch, failure):
    def fail(*arguments):
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(engines, "export_onnx", fail)
        patched.setattr(engines, "export_openvino", fail)
        engine, found = select_engine(bundle, "auto", "fp32", validation, EASY, tmp_path)
    assert engine.name == "pytorch" and type(failure).__name__ in found["refused"]["onnxruntime fp32"]
    assert select_engine(bundle, "auto", "fp32", validation, EASY, tmp_path)[0].name != "pytorch"


def test_a_failure_of_the_exporter_lasts_unless_memory_was_short():
    class Unsupported(Exception):
        __module__ = "torch.onnx.errors"

    assert is_lasting_failure(Unsupported("no operator aten::histc"))
    assert not is_lasting_failure(Unsupported("bad allocation"))
    assert not is_lasting_failure(RuntimeError("something"))
