"""Trained weights to begin with: what is taken over, what is replaced, what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle, BundleInfo, save_bundle
from lightning_modules.networks.factory import make_network
from lightning_modules.networks.pretrained import (
    adapt_statistics,
    list_backbone_layers,
    load_pretrained,
    read_weights,
)
from lightning_modules.networks.weights.training_images import IMAGENET_STATISTICS, INCEPTION_STATISTICS
from tests.helpers.real_data import find_real_file
from tests.helpers.training import RECIPE_OFF, DigitBatches, make_loader, make_sgd, make_trainer

SPEC = {"class_path": "lightning_modules.networks.TorchvisionNet", "init_args": {"name": "squeezenet1_1",
                                                                                "stem": "small"}}  # fmt: skip
CLASSES = ("daisy", "rose", "tulip")
TEN = tuple("0123456789")

pytestmark = pytest.mark.usefixtures("one_thread")


def read_unregistered(weights, network):
    """Weights that are no registered model's: MLflow is not asked for them."""
    return read_weights(weights, network, lambda uri: pytest.fail(f"{uri} was asked for"))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A state dict as torchvision publishes them: 1,000 classes, colour."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(7)
    return squeezenet1_1(num_classes=1000).state_dict()


@pytest.fixture
def file(published, tmp_path):
    path = tmp_path / "squeezenet.pth"
    torch.save(published, path)
    return str(path)


def network(channels=3, num_classes=3) -> nn.Module:
    torch.manual_seed(0)
    return make_network(SPEC, channels, num_classes)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "checkpoint", "wrapped"])
def test_all_but_the_head_is_taken_over_and_that_is_said_in_one_line(kind, published, file, tmp_path):
    path = {"pth": file}.get(kind, str(tmp_path / f"other.{'safetensors' if kind == 'safetensors' else 'pt'}"))
    if kind == "safetensors":
        save_file(published, path)
    elif kind == "checkpoint":
        torch.save({"epoch": 3, "state_dict": published}, path)
    elif kind == "wrapped":
        torch.save({f"module.{name}": value for name, value in published.items()}, path)
    here = network()
    fresh_head = here.network.classifier[1].weight.clone()
    said = load_pretrained(here, read_unregistered(path, SPEC), CLASSES).summary
    assert said.endswith("its head 'network.classifier.1' for 1000 classes was replaced by a new one for 3")
    assert "\n" not in said
    assert torch.equal(here.network.features[0].weight, published["features.0.weight"])
    assert torch.equal(here.network.classifier[1].weight, fresh_head)


def test_a_head_of_as_many_classes_is_taken_over_too(published, file):
    here = network(num_classes=1000)
    assert load_pretrained(here, read_unregistered(file, SPEC), tuple(map(str, range(1000)))).summary.endswith(
        "the head included"
    )
    assert torch.equal(here.network.classifier[1].weight, published["classifier.1.weight"])


def test_grey_gets_the_sum_of_the_filters_for_three_channels(file):
    colour, grey = network(3), network(1)
    for one in (colour, grey):
        load_pretrained(one, read_unregistered(file, SPEC), CLASSES)
    grey.network.classifier.load_state_dict(colour.network.classifier.state_dict())
    x = torch.rand(2, 1, 32, 32)
    assert torch.allclose(grey.eval()(x), colour.eval()(x.expand(-1, 3, -1, -1)), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("features.3.squeeze.weight"), r"1 missing \(network\.features\.3\.squeeze\.weight\)"),
        (lambda s: s.update({"extra.weight": torch.ones(1)}), r"1 unexpected \(extra\.weight\)"),
        (
            lambda s: s.update({"features.3.squeeze.weight": torch.ones(16, 64, 3, 3)}),
            r"squeeze\.weight is \[16, 64, 3, 3\], the network has \[16, 64, 1, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(published, tmp_path, change, said):
    state = dict(published)
    change(state)
    torch.save(state, tmp_path / "x.pth")
    here = network()
    before = {name: value.clone() for name, value in here.state_dict().items()}
    with pytest.raises(UserError, match=said) as caught:
        load_pretrained(here, read_unregistered(str(tmp_path / "x.pth"), SPEC), CLASSES)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in here.state_dict().items())


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"not weights", pickle.dumps([1, 2])])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_that_is_no_state_dict_is_refused_and_nothing_in_it_is_run(content, ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"x.{ending}").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.weights: x\.\w+: ") as caught:
        read_unregistered(f"x.{ending}", SPEC)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"nowhere\.pth: No such file or directory; give DEFAULT, a file"):
        read_unregistered("nowhere.pth", SPEC)


def test_default_is_for_networks_of_torchvision_and_timm():
    with pytest.raises(UserError, match="DEFAULT is for networks of torchvision and timm"):
        read_unregistered("DEFAULT", {"class_path": "lightning_modules.networks.LeNet5", "init_args": {}})


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """torchvision's address of the weights, led to a file here."""
    from torchvision.models import SqueezeNet1_1_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(SqueezeNet1_1_Weights.DEFAULT.value, "url", (tmp_path / "squeezenet.pth").as_uri())
    return tmp_path / "squeezenet.pth"


def test_default_is_torchvisions_download(hub, file, published):
    source = read_unregistered("DEFAULT", SPEC)
    assert torch.equal(source.state["features.0.weight"], published["features.0.weight"])
    assert source.digest == read_unregistered("DEFAULT", SPEC).digest


def test_a_download_that_fails_is_one_line(hub):
    with pytest.raises(
        UserError, match=r"the weights of squeezenet1_1 cannot be downloaded \(.*give a file"
    ) as caught:
        read_unregistered("DEFAULT", SPEC)
    assert "\n" not in str(caught.value)


def test_the_digest_is_that_of_the_content(file, published, tmp_path):
    import hashlib
    from pathlib import Path

    assert read_unregistered(file, SPEC).digest == hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_a_bundles_weights_bring_their_classes_and_their_scale(tmp_path):
    info = BundleInfo(
        network=SPEC, classes=("a", "b", "c"), dataset={}, metrics={}, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
        decode={"size": 32, "channels": 3, "fit": "crop", "interpolation": "bilinear", "max_pixels": 10**6},
    )  # fmt: skip
    save_bundle(tmp_path, info, network())
    asked = []

    def load_registered(uri):
        asked.append(uri)
        return Bundle.load(tmp_path)

    source = read_weights("models:/flowers@champion", SPEC, load_registered)
    assert asked == ["models:/flowers@champion"]
    assert source.images.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "was replaced" in load_pretrained(network(), source, CLASSES).summary  # as many classes, but others
    assert load_pretrained(network(), source, ("a", "b", "c")).summary.endswith("the head included")


def test_auxiliary_classifiers_are_left_out_and_their_networks_have_a_scale_of_their_own(tmp_path):
    from torchvision.models import googlenet

    spec = {**SPEC, "init_args": {"name": "googlenet", "stem": "small"}}
    torch.save(googlenet(num_classes=1000, init_weights=False).state_dict(), tmp_path / "googlenet.pth")
    source = read_unregistered(str(tmp_path / "googlenet.pth"), spec)
    assert source.images.statistics == INCEPTION_STATISTICS
    load_pretrained(make_network(spec, 3, 3), source, CLASSES)


def test_grey_pictures_get_the_mean_of_the_colours_scale():
    mean, std = adapt_statistics(IMAGENET_STATISTICS, 1)
    assert mean == pytest.approx((0.449,), abs=1e-3) and std == pytest.approx((0.226,), abs=1e-3)
    assert adapt_statistics(IMAGENET_STATISTICS, 3) == IMAGENET_STATISTICS


def fine_tuned(file, tmp_path, epochs, watch=None, **switches):
    from lightning_modules.classifier import Classifier

    torch.manual_seed(0)
    model = Classifier(SPEC, optimizer=make_sgd, **(RECIPE_OFF | {"weights": file} | switches))
    model.build((0.3,), (0.3,), TEN, None, read_unregistered(file, SPEC))
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    make_trainer(tmp_path, epochs, callbacks=[watch] if watch else []).fit(model, make_loader())
    return model, before


def changed(model, before) -> set[str]:
    return {name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])}


def test_a_frozen_backbone_keeps_its_weights_and_the_head_is_trained(file, tmp_path):
    model, before = fine_tuned(file, tmp_path, 1, freeze="backbone")
    assert changed(model, before) == {"network.classifier.1.weight", "network.classifier.1.bias"}
    model, before = fine_tuned(file, tmp_path, 1)
    assert len(changed(model, before)) > 10


def test_gradually_the_last_layers_are_freed_first_and_all_in_the_end(file, tmp_path):
    from pytorch_lightning import Callback

    free = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            layers = list_backbone_layers(pl_module.network, 10)
            free.append([all(p.requires_grad for p in layer.parameters(recurse=False)) for layer in layers])

    fine_tuned(file, tmp_path, 8, Watch(), freeze="gradual")
    assert [sum(row) / len(row) for row in free] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1], abs=0.05)
    assert all(row == sorted(row) for row in free)


def test_the_backbone_has_a_learning_rate_of_its_own(file, tmp_path):
    from lightning_modules.classifier import Classifier

    model = Classifier(SPEC, optimizer=make_sgd, **(RECIPE_OFF | {"weights": file, "backbone_lr": 0.1}))
    model.build((0.3,), (0.3,), TEN, None, read_unregistered(file, SPEC))
    training = make_trainer(tmp_path, 1)
    training.fit(model, make_loader())
    starts = [group["initial_lr"] for group in training.optimizers[0].param_groups]
    assert starts == pytest.approx([0.1, 0.1, 0.01, 0.01])
    head = {id(p) for p in model.network.network.classifier.parameters()}
    assert {id(p) for group in training.optimizers[0].param_groups[:2] for p in group["params"]} == head


def test_the_learning_rate_falls_from_layer_to_layer_towards_the_image(file):
    from lightning_modules.classifier import Classifier

    changes = {"weights": file, "backbone_lr": 0.1, "layer_decay": 0.5}
    model = Classifier(SPEC, optimizer=make_sgd, **(RECIPE_OFF | changes))
    model.build((0.3,), (0.3,), TEN, None, read_unregistered(file, SPEC))
    factors = {id(p): group["lr_factor"] for group in model.build_parameter_groups() for p in group["params"]}
    layers = list_backbone_layers(model.network, 10)
    of_layers = [factors[id(next(layer.parameters(recurse=False)))] for layer in layers]
    assert of_layers == sorted(of_layers) and len(set(of_layers)) == 8
    assert (of_layers[0], of_layers[-1]) == pytest.approx((0.1 * 0.5**7, 0.1))
    assert {factors[id(p)] for p in model.network.network.classifier.parameters()} == {1.0}
    model.is_head_fitted = True  # by a probe: then it learns as slowly as the layers below it
    (group, *_) = model.build_parameter_groups()
    assert group["lr_factor"] == 0.1
    assert group["params"][0] is model.network.network.classifier[1].weight


def test_freezing_what_was_never_trained_is_refused():
    from lightning_modules.classifier import Classifier

    with pytest.raises(UserError, match=r"model\.freeze: backbone would freeze weights that were never trained"):
        Classifier(SPEC, optimizer=make_sgd, **(RECIPE_OFF | {"freeze": "backbone"}))


@pytest.mark.parametrize(("choice", "mean"), [("auto", 0.449), ("imagenet", 0.449), ("dataset", 0.3)])
def test_pictures_are_normalized_as_the_weights_expect_unless_told_otherwise(file, choice, mean):
    from lightning_modules.classifier import Classifier

    model = Classifier(SPEC, optimizer=make_sgd, **(RECIPE_OFF | {"weights": file, "mean_std": choice}))
    model.build((0.3,), (0.3,), TEN, None, read_unregistered(file, SPEC))
    assert model.mean == pytest.approx((mean,), abs=1e-3)
    images, _ = DigitBatches()[0]
    assert model.normalize(images).shape == (16, 1, 8, 8)


def check_squeezenet(file):
    spec = {**SPEC, "init_args": {"name": "squeezenet1_0", "stem": "standard"}}
    here, source = make_network(spec, 3, 5), read_unregistered(str(file), spec)
    said = load_pretrained(here, source, tuple("abcde")).summary
    assert "for 1000 classes was replaced by a new one for 5" in said
    ours = here.network.state_dict()
    backbone = {name for name in source.state if not name.startswith("classifier")}
    assert len(backbone) > 40 and all(torch.equal(ours[name], source.state[name]) for name in backbone)


def test_weights_of_torchvisions_own_network_fit_one_with_its_own_stem(tmp_path):
    from torchvision.models import squeezenet1_0

    torch.save(squeezenet1_0().state_dict(), tmp_path / "squeezenet1_0.pth")
    check_squeezenet(tmp_path / "squeezenet1_0.pth")


def test_the_published_weights_of_squeezenet_fit():
    check_squeezenet(find_real_file("squeezenet1_0.pth"))
