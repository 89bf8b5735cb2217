"""Every switch of the recipe: what it does where it is on, and that it does nothing where it is off."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from imageset.digits import digit_pictures
from imageset.errors import UserError
from lightning_modules.augment import OPERATIONS, _colours, _geometric, mix, rand_augment, random_erasing
from lightning_modules.classifier import Classifier, Normalize, one_cycle
from lightning_modules.cli import best_precision
from lightning_modules.datamodule import BatchSampler, balanced_chances

OFF = {
    "weights": None, "mean_std": "auto", "freeze": "none", "backbone_lr": 1.0,
    "schedule": "cosine", "warmup": 0.2, "decay_norm_and_bias": False, "ema": None, "label_smoothing": 0.0,
    "imbalance": "none", "channels_last": False, "compile": False, "shift": 0.0, "flip": False, "rand_augment": 0,
    "strength": 0.5, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip
NETWORK = {"filters": [4], "kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2, "grid": 4,
           "hidden": [], "dropout": 0.5, "batch_norm": True}  # fmt: skip
IMAGES = torch.rand(16, 3, 12, 20, generator=torch.Generator().manual_seed(1))


pytestmark = pytest.mark.usefixtures("one_thread")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)


def classifier(labels=(0, 1), **switches) -> Classifier:
    """A tiny one for grey pictures of ten classes."""
    torch.manual_seed(0)
    spec = {"class_path": "lightning_modules.networks.ConvNet", "init_args": NETWORK}
    model = Classifier(spec, optimizer=sgd, **(OFF | switches))
    model.build((0.3,), (0.3,), tuple("0123456789"), labels)
    return model


class Digits(torch.utils.data.Dataset):
    """Batches of 16 real digits: uint8 (16, 8, 8, 1) and their labels."""

    def __init__(self) -> None:
        pixels, labels = digit_pictures()
        self.images, self.labels = torch.from_numpy(pixels[:64])[..., None], torch.from_numpy(labels[:64])

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number):
        if number >= 4:
            raise IndexError
        return self.images[16 * number : 16 * number + 16], self.labels[16 * number : 16 * number + 16]


def loader():
    return torch.utils.data.DataLoader(Digits(), batch_size=None)


def trainer(folder, epochs, **options) -> pl.Trainer:
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
                      **options)  # fmt: skip


def trained(folder, epochs=2, **switches) -> Classifier:
    model = classifier(**switches)
    trainer(folder, epochs).fit(model, loader())
    return model


def shown(**switches):
    """What the network would see of the same batch, and the targets."""
    model = classifier(**switches)
    images, labels = Digits()[0]
    torch.manual_seed(5)
    return model.augment(images, F.one_hot(labels, 10).float())


def test_with_all_switches_off_the_network_sees_the_normalized_pictures():
    images, labels = Digits()[0]
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


@pytest.mark.parametrize("change", ["rand_augment", "erasing"])
def test_each_picture_has_its_own_draw(change):
    same = IMAGES[:1].expand(64, -1, -1, -1).contiguous()
    torch.manual_seed(0)
    out = rand_augment(same, 1, 1.0) if change == "rand_augment" else random_erasing(same, 1.0)
    assert len({picture.numpy().tobytes() for picture in out}) > 30


def drawn(name: str, amount: float) -> tuple[torch.Tensor, torch.Tensor]:
    op = torch.full((len(IMAGES),), OPERATIONS.index(name))
    return op, torch.full((len(IMAGES),), amount)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "nothing"])
def test_every_operation_changes_pictures_and_leaves_values_between_0_and_1(name):
    op, amount = drawn(name, 0.7)
    out = _colours(_geometric(IMAGES, [(op, amount)]), op, amount)
    assert not torch.allclose(out, IMAGES, atol=1e-3)
    assert out.min() >= 0 and out.max() <= 1


def test_the_operation_nothing_changes_nothing():
    op, amount = drawn("nothing", 1.0)
    assert torch.allclose(_colours(_geometric(IMAGES, [(op, amount)]), op, amount), IMAGES, atol=1e-6)


def test_a_shift_by_the_grid_moves_by_that_part_of_the_side():
    out = _geometric(IMAGES, [drawn("shift_x", 1.0)])
    columns = round(0.45 * 20)  # 9 px
    assert torch.allclose(out[..., : 20 - columns], IMAGES[..., columns:], atol=1e-5)


def test_a_turn_keeps_lengths_in_pictures_that_are_not_square():
    image = torch.zeros(1, 1, 61, 121)
    image[..., 30, 30:91] = 1.0  # a line of 61 px through the centre
    out = _geometric(image, [(torch.tensor([OPERATIONS.index("turn")]), torch.tensor([1.0]))])[0, 0]
    rows, columns = torch.nonzero(out > 0.3, as_tuple=True)
    length = torch.hypot((rows.max() - rows.min()).float(), (columns.max() - columns.min()).float())
    assert length == pytest.approx(60, abs=2)
    assert (rows.max() - rows.min()) == pytest.approx(30, abs=2)  # sin 30 degrees


def test_the_targets_of_cutmix_are_the_parts_of_the_area():
    torch.manual_seed(0)
    black_and_white = torch.tensor([0.0, 1.0] * 8)[:, None, None, None].expand(-1, 1, 32, 32)
    x, targets = mix(black_and_white, F.one_hot(torch.tensor([0, 1] * 8), 2).float(), 0.0, 1.0)
    assert torch.allclose(x.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_with_mixup_and_cutmix_each_picture_has_one_of_them():
    torch.manual_seed(0)
    black_and_white = torch.tensor([0.0, 1.0] * 32)[:, None, None, None].expand(-1, 1, 32, 32)
    x, _ = mix(black_and_white, torch.eye(2).repeat(32, 1), 1.0, 1.0)
    cut = [set(picture.unique().tolist()) <= {0.0, 1.0} for picture in x]
    assert any(cut) and not all(cut)


def test_the_average_of_the_weights_is_what_is_evaluated_and_served(tmp_path):
    model = trained(tmp_path, ema=0.9)
    images, _ = Digits()[0]
    model.eval()
    assert model.served is model.average
    assert torch.equal(model(images), model.average(model.normalize(images)))
    assert not torch.equal(model(images), model.network(model.normalize(images)))
    assert not any(weight.requires_grad for weight in model.average.parameters())


def test_without_an_average_the_network_itself_is_served(tmp_path):
    model = trained(tmp_path)
    assert model.served is model.network and not hasattr(model, "average")


def test_the_average_follows_the_weights_step_by_step():
    model = classifier(ema=0.5)
    model._trainer = type("T", (), {"global_step": 1000})()
    before = model.average.classifier[0].weight.clone()
    with torch.no_grad():
        model.network.classifier[0].weight.add_(1.0)
    model._follow(0.5)
    assert torch.allclose(model.average.classifier[0].weight, before + 0.5)


def test_with_every_switch_on_a_training_gone_on_with_ends_with_the_same_weights(tmp_path):
    switches = {"ema": 0.9, "label_smoothing": 0.1, "shift": 0.2, "flip": True, "rand_augment": 2, "erasing": 0.5,
                "mixup": 0.5, "cutmix": 0.5, "imbalance": "weights", "schedule": "one_cycle",
                "channels_last": True}  # fmt: skip
    undisturbed = trained(tmp_path, 3, **switches)
    model = classifier(**switches)
    stopping = trainer(tmp_path, 3)
    stopping.callbacks.append(StopAfter(2))
    stopping.fit(model, loader())
    stopping.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)
    torch.rand(7)
    again = classifier(**switches)
    trainer(tmp_path, 3).fit(again, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
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
    images, labels = Digits()[0]
    plain, weighted = classifier(), classifier([0] * 90 + list(range(1, 10)), imbalance="weights")
    losses = []
    for model in (plain, weighted):
        torch.manual_seed(0)
        losses.append(model.training_step((images, labels), 0).item())
    assert losses[0] != losses[1]


def test_the_balanced_sampler_draws_all_classes_alike_by_seed_and_epoch():
    import numpy as np

    labels = np.array([0] * 900 + [1] * 100)
    sampler = BatchSampler(1000, 50, seed=1, chances=balanced_chances(labels))
    first = np.concatenate(list(sampler))
    assert labels[first].mean() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(first, np.concatenate(list(sampler)))
    sampler.set_epoch(1)
    assert not np.array_equal(first, np.concatenate(list(sampler)))
    parts = [list(BatchSampler(1000, 50, seed=1, rank=r, num_ranks=2, chances=balanced_chances(labels)))
             for r in (0, 1)]  # fmt: skip
    assert sorted(np.concatenate([*parts[0], *parts[1]]).tolist()) == sorted(first.tolist())


def label_sets() -> np.ndarray:
    """1,000 pictures: half bear the first of ten labels, 10 the second, 490 none."""
    labels = np.zeros((1000, 10), np.uint8)
    labels[:500, 0] = labels[500:510, 1] = 1
    return labels


def test_of_several_labels_the_rarest_decides_how_often_a_picture_is_drawn():
    labels = label_sets()
    labels[0, 1] = 1
    chances = balanced_chances(labels)
    assert chances.sum() == pytest.approx(1)
    assert chances[labels[:, 1] == 1].sum() == pytest.approx(1 / 3, abs=0.01)
    assert chances[~labels.any(axis=1)].sum() == pytest.approx(1 / 3, abs=0.01)


def test_weights_let_the_pictures_with_a_label_count_as_much_as_those_without():
    model = classifier(label_sets(), imbalance="weights")
    assert model.multi_label
    assert model.class_weights[:3].tolist() == [1.0, 99.0, 1000.0]  # 1,000 without the third, which nobody bears


def test_of_several_labels_smoothing_takes_half_of_itself_from_yes_and_gives_it_to_no():
    model = classifier(label_sets(), label_smoothing=0.2)
    model._log = lambda *args: None
    images, labels = torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.from_numpy(label_sets()[:4])
    logits = model.network(model.normalize(images))
    targets = torch.where(labels > 0, 0.9, 0.1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert torch.allclose(model.training_step((images, labels), 0), expected)


@pytest.mark.parametrize(("on", "left_alone"), [(False, True), (True, False)])
def test_weight_decay_leaves_norms_and_biases_alone_unless_told(on, left_alone):
    model = classifier(decay_norm_and_bias=on)
    optimizer = sgd(model.parameter_groups())
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.network.parameters()))
    norm = model.network.features[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert decays[id(norm.weight)] == (0.0 if left_alone else 0.1)
    assert decays[id(model.network.features[0].weight)] == 0.1


def test_label_smoothing_raises_the_least_loss():
    images, labels = Digits()[0]
    losses = []
    for smoothing in (0.0, 0.3):
        model = classifier(label_smoothing=smoothing)
        torch.manual_seed(0)
        losses.append(model.training_step((images, labels), 0).item())
    assert losses[0] != losses[1]


def test_one_cycle_is_a_line_up_and_a_line_down():
    factors = [one_cycle(step, 100, 0.25) for step in range(101)]
    assert (factors[0], factors[25], factors[100]) == (0.04, 1.0, 0.0)
    assert factors[:26] == sorted(factors[:26]) and factors[25:] == sorted(factors[25:], reverse=True)
    assert factors[13] - factors[12] == pytest.approx(factors[2] - factors[1])
    assert one_cycle(0, 10, 0.0) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_learning_rate_has_fallen_to_nothing_when_training_ends(schedule, tmp_path):
    model = classifier(schedule=schedule)
    training = trainer(tmp_path, 2)
    training.fit(model, loader())
    assert training.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("on", [True, False])
def test_channels_last_is_the_memory_order_of_the_filters(on):
    weight = classifier(channels_last=on, ema=0.9)
    colour = Classifier(weight.network_spec, optimizer=sgd, **(OFF | {"channels_last": on}))
    colour.build((0.3,) * 3, (0.3,) * 3, tuple("0123456789"))
    assert colour.network.features[0].weight.is_contiguous(memory_format=torch.channels_last) is on


@pytest.mark.parametrize("on", [True, False])
def test_compile_runs_the_network_through_the_compiler_and_keeps_the_names_of_weights(on, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda call, *_, **__: lambda *a: seen.append("compiled") or call(*a))
    model = classifier(compile=on)
    model.training_step(Digits()[0], 0)
    assert seen == (["compiled"] if on else [])
    assert model.state_dict().keys() == classifier().state_dict().keys()


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_auto_is_bf16_on_a_gpu_or_cpu_that_has_it_and_else_full(monkeypatch, bf16, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_precision("cpu") == best_precision("auto") == best_precision(None) == precision
    assert best_precision("gpu") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not bf16)
    assert best_precision("cpu") == precision and best_precision("auto") != precision
    assert best_precision("mps") == "32-true"


def test_a_gradient_is_clipped_at_the_trainers_value(tmp_path):
    norms = []

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    trainer(tmp_path, 2, gradient_clip_val=0.01, callbacks=[Watch()]).fit(classifier(), loader())
    assert norms and max(norms) <= 0.0101


@pytest.mark.parametrize(("switch", "value"), [("ema", 1.5), ("label_smoothing", -0.1), ("erasing", 2)])
def test_a_part_that_is_none_is_named(switch, value):
    with pytest.raises(UserError, match=rf"model\.{switch} is {value}; give a number from 0 to 1"):
        classifier(**{switch: value})


def test_the_curves_are_those_that_lightning_logs_step_by_step(tmp_path, monkeypatch):
    def means():
        training = trainer(tmp_path, 2)
        training.fit(classifier(label_smoothing=0.1, shift=0.1), loader())
        return {name: value.item() for name, value in training.callback_metrics.items()}

    quick = means()
    monkeypatch.setattr(Classifier, "_add", lambda self, values, num: False)
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
