"""Every switch of the recipe: what it does where it is on, and that it does nothing where it is off."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from imageset.exceptions import UserError
from lightning_modules.classifier import Classifier
from lightning_modules.networks.preprocessing import Normalize
from tests.helpers.training import RECIPE_OFF, DigitBatches, make_label_sets, make_loader, make_sgd, make_trainer

NETWORK = {"filters": [4], "kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2, "grid": 4,
           "hidden": [], "dropout": 0.5, "batch_norm": True}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def classifier(labels=(0, 1), **switches) -> Classifier:
    """A tiny one for grey pictures of ten classes."""
    torch.manual_seed(0)
    spec = {"class_path": "lightning_modules.networks.ConvNet", "init_args": NETWORK}
    model = Classifier(spec, optimizer=make_sgd, **(RECIPE_OFF | switches))
    model.build((0.3,), (0.3,), tuple("0123456789"), labels)
    return model


def trained(folder, epochs=2, **switches) -> Classifier:
    model = classifier(**switches)
    make_trainer(folder, epochs).fit(model, make_loader())
    return model


def shown(**switches):
    """Return the network's input for the same batch, and the targets."""
    model = classifier(**switches)
    images, labels = DigitBatches()[0]
    torch.manual_seed(5)
    return model.augment(images, F.one_hot(labels, 10).float())


def test_with_all_switches_off_the_network_sees_the_normalized_pictures():
    images, labels = DigitBatches()[0]
    x, targets = shown()
    assert torch.equal(x, Normalize((0.3,), (0.3,))(images)) and torch.equal(targets.argmax(1), labels)


@pytest.mark.parametrize(
    "switch",
    [{"shift": 0.2}, {"flip": True}, {"rand_augment": 2}, {"erasing": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}],
)
def test_each_augmentation_changes_pictures_and_the_seed_decides_how(switch):
    plain, _ = shown()
    x, targets = shown(**switch)
    assert x.shape == plain.shape and not torch.equal(x, plain)
    again, targets_again = shown(**switch)
    assert torch.equal(x, again) and torch.equal(targets, targets_again)
    assert torch.allclose(targets.sum(1), torch.ones(len(targets)))


def test_the_average_of_the_weights_is_what_is_evaluated_and_served(tmp_path):
    model = trained(tmp_path, ema=0.9)
    images, _ = DigitBatches()[0]
    model.eval()
    assert model.serving_network is model.average
    assert torch.equal(model(images), model.average(model.normalize(images)))
    assert not torch.equal(model(images), model.network(model.normalize(images)))
    assert not any(weight.requires_grad for weight in model.average.parameters())


def test_without_an_average_the_network_itself_is_served(tmp_path):
    model = trained(tmp_path)
    assert model.serving_network is model.network and not hasattr(model, "average")


def test_the_average_follows_the_weights_step_by_step():
    model = classifier(ema=0.5)
    model._trainer = type("T", (), {"global_step": 1000})()
    before = model.average.classifier[0].weight.clone()
    with torch.no_grad():
        model.network.classifier[0].weight.add_(1.0)
    model._update_average(0.5)
    assert torch.allclose(model.average.classifier[0].weight, before + 0.5)


def test_with_every_switch_on_a_training_gone_on_with_ends_with_the_same_weights(tmp_path):
    switches = {"ema": 0.9, "label_smoothing": 0.1, "shift": 0.2, "flip": True, "rand_augment": 2, "erasing": 0.5,
                "mixup": 0.5, "cutmix": 0.5, "imbalance": "weights", "schedule": "one_cycle",
                "channels_last": True}  # fmt: skip
    undisturbed = trained(tmp_path, 3, **switches)
    model = classifier(**switches)
    stopping = make_trainer(tmp_path, 3)
    stopping.callbacks.append(StopAfter(2))
    stopping.fit(model, make_loader())
    stopping.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)
    torch.rand(7)
    again = classifier(**switches)
    make_trainer(tmp_path, 3).fit(again, make_loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert undisturbed.state_dict().keys() == again.state_dict().keys()
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


class StopAfter(pl.Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_class_weights_make_all_classes_count_alike():
    labels = [0] * 90 + [1] * 10
    weights = classifier(labels, imbalance="weights").class_weights
    assert (90 * weights[0]).item() == pytest.approx((10 * weights[1]).item())
    assert sum(weights[label].item() for label in labels) / 100 == pytest.approx(2 / 10)  # two of ten are there
    assert torch.equal(classifier(labels).class_weights, torch.ones(10))


def test_a_rare_class_weighs_more_in_the_loss():
    images, _ = DigitBatches()[0]
    plain, weighted = classifier(), classifier([0] * 90 + list(range(1, 10)), imbalance="weights")
    losses = {}
    for label in (0, 1):
        for name, model in (("plain", plain), ("weighted", weighted)):
            torch.manual_seed(0)
            labels = torch.full((len(images),), label)
            losses[name, label] = model.training_step((images, labels), 0).item()
    assert losses["weighted", 1] > losses["plain", 1] and losses["weighted", 0] < losses["plain", 0]


def test_weights_let_the_pictures_with_a_label_count_as_much_as_those_without():
    model = classifier(make_label_sets(), imbalance="weights")
    assert model.multi_label
    assert model.class_weights[:3].tolist() == [1.0, 99.0, 1000.0]  # 1,000 without the third, which nobody bears


def test_of_several_labels_smoothing_takes_half_of_itself_from_yes_and_gives_it_to_no():
    model = classifier(make_label_sets(), label_smoothing=0.2)
    model._log_metrics = lambda *args: None
    images, labels = torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.from_numpy(make_label_sets()[:4])
    logits = model.network(model.normalize(images))
    targets = torch.where(labels > 0, 0.9, 0.1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.allclose(model.training_step((images, labels), 0), expected)


@pytest.mark.parametrize(("on", "left_alone"), [(False, True), (True, False)])
def test_weight_decay_leaves_norms_and_biases_alone_unless_told(on, left_alone):
    model = classifier(decay_norm_and_bias=on)
    optimizer = make_sgd(model.build_parameter_groups())
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.network.parameters()))
    norm = model.network.features[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert decays[id(norm.weight)] == (0.0 if left_alone else 0.1)
    assert decays[id(model.network.features[0].weight)] == 0.1


class Sure(nn.Module):
    """A network that is sure of the right answers."""

    def __init__(self, labels) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, x):
        return 20 * F.one_hot(self.labels, 10).float()


def test_label_smoothing_raises_the_least_loss():
    images, labels = DigitBatches()[0]
    losses = []
    for smoothing in (0.0, 0.3):
        model = classifier(label_smoothing=smoothing)
        model.network = Sure(labels)
        losses.append(model.training_step((images, labels), 0).item())
    assert losses[0] == pytest.approx(0, abs=1e-4) and losses[1] > 1


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_learning_rate_has_fallen_to_nothing_when_training_ends(schedule, tmp_path):
    model = classifier(schedule=schedule)
    training = make_trainer(tmp_path, 2)
    training.fit(model, make_loader())
    assert training.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("on", [True, False])
def test_channels_last_is_the_memory_order_of_the_filters(on):
    weight = classifier(channels_last=on, ema=0.9)
    colour = Classifier(weight.network_spec, optimizer=make_sgd, **(RECIPE_OFF | {"channels_last": on}))
    colour.build((0.3,) * 3, (0.3,) * 3, tuple("0123456789"))
    assert colour.network.features[0].weight.is_contiguous(memory_format=torch.channels_last) is on


@pytest.mark.parametrize("on", [True, False])
def test_compile_runs_the_network_through_the_compiler_and_keeps_the_names_of_weights(on, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda call, *_, **__: lambda *a: seen.append("compiled") or call(*a))
    model = classifier(compile=on)
    model.training_step(DigitBatches()[0], 0)
    assert seen == (["compiled"] if on else [])
    assert model.state_dict().keys() == classifier().state_dict().keys()


def test_a_gradient_is_clipped_at_the_trainers_value(tmp_path):
    norms = []

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    make_trainer(tmp_path, 2, gradient_clip_val=0.01, callbacks=[Watch()]).fit(classifier(), make_loader())
    assert norms and max(norms) <= 0.0101


@pytest.mark.parametrize(("switch", "value"), [("ema", 1.5), ("label_smoothing", -0.1), ("erasing", 2)])
def test_a_part_that_is_none_is_named(switch, value):
    with pytest.raises(UserError, match=rf"model\.{switch} is {value}; give a number from 0 to 1"):
        classifier(**{switch: value})


def test_the_curves_are_those_that_lightning_logs_step_by_step(tmp_path, monkeypatch):
    def means():
        training = make_trainer(tmp_path, 2)
        training.fit(classifier(label_smoothing=0.1, shift=0.1), make_loader())
        return {name: value.item() for name, value in training.callback_metrics.items()}

    quick = means()
    monkeypatch.setattr(Classifier, "_add_to_sums", lambda self, values, num: False)
    assert quick == means() and set(quick) == {"train_loss", "train_accuracy", "train_error"}


def test_the_seed_of_a_step_draws_what_torch_would_draw_from_it(monkeypatch):
    model, seeds = classifier(), []
    monkeypatch.setattr(Classifier, "current_epoch", 3)
    monkeypatch.setattr(Classifier, "global_rank", 0)
    model.on_train_batch_start(None, 7)
    drawn = torch.rand(5)
    monkeypatch.setattr(Classifier, "device", torch.device("meta"))  # any other
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    model.on_train_batch_start(None, 7)
    torch.default_generator.manual_seed(seeds[0])
    assert torch.equal(torch.rand(5), drawn)
