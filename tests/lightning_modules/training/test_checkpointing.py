import hashlib
import os
import pickle
import signal
import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from imageset import termination
from imageset.exceptions import UserError
from imageset.utils.atomic_write import hash_file
from lightning_modules.datamodule import BatchLoader, BatchSampler
from lightning_modules.training import checkpointing
from lightning_modules.training.callbacks import FiniteLossCheck, MetricHistory
from lightning_modules.training.checkpointing import (
    DigestCheckpointIO,
    ResumableCheckpoint,
    StopRequest,
    find_newest_intact,
    list_checkpoints,
)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of signals are those of before when a test ends."""
    before = {number: signal.getsignal(number) for number in termination.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Unsafe:
    """A payload that reading a damaged file must never run."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


class Pictures:
    """A split of numbers."""

    def __init__(self, num: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = torch.randn(num, 3, generator=generator).numpy()
        self.labels = torch.randint(0, 2, (num,), generator=generator).numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def read_batch(self, positions):
        return self.values[positions]


class Line(pl.LightningModule):
    """One layer with dropout; draws depend on the place alone. Its loss may turn bad at a step."""

    def __init__(self, bad_loss_at: int = -1, bad_gradient_at: int = -1, bad_validation: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.dropout = nn.Linear(3, 2), nn.Dropout(0.5)
        self.bad_loss_at, self.bad_gradient_at, self.bad_validation = bad_loss_at, bad_gradient_at, bad_validation

    def on_train_batch_start(self, batch, batch_idx):
        torch.manual_seed(hash((self.current_epoch, batch_idx)))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layer(self.dropout(batch[0])), batch[1])
        if self.global_step == self.bad_gradient_at:
            loss = loss + (self.layer.weight * 0).sum().sqrt()  # finite, its gradient is not
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss * (torch.nan if self.global_step == self.bad_loss_at else 1)

    def validation_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("val_loss", loss * (torch.nan if self.bad_validation else 1), batch_size=len(batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Interrupt(pl.Callback):
    """SIGTERM, or an end without any warning, at a step."""

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how = step, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            if self.how == "killed":
                raise RuntimeError("killed")
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains 3 epochs of 7 batches; returns (weights, curves, Keep). `points` are the epochs handed over."""
    points: list[int] = []

    def run(*more: pl.Callback, model: Line | None = None, every_min: float = 0, **options):
        model = model or Line()
        curves = MetricHistory(lambda metrics, epoch: points.append(epoch), -1)
        keep = ResumableCheckpoint(tmp_path / "work", every_min, StopRequest())
        trainer = pl.Trainer(
            max_epochs=3, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            default_root_dir=tmp_path, callbacks=[FiniteLossCheck(), *more, curves], **options,
        )  # fmt: skip
        trainer.callbacks.append(keep)
        trainer.strategy.checkpoint_io = DigestCheckpointIO()
        loaders = (
            BatchLoader(Pictures(65), BatchSampler(65, 10, seed=0)),
            BatchLoader(Pictures(9), BatchSampler(9, 4, seed=None)),
        )
        path, _ = find_newest_intact(tmp_path / "work", "last")
        trainer.fit(model, *loaders, ckpt_path=path)
        return [weights.detach().clone() for weights in model.parameters()], curves.rows, keep

    run.points = points
    return run


def empty(folder) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("how", ["killed", "terminated"])
@pytest.mark.parametrize("step", [0, 3, 7, 10, 13, 20])
def test_a_training_that_ends_anywhere_goes_on_as_if_it_had_not(train, tmp_path, step, how):
    weights, rows, _ = train()
    empty(tmp_path / "work")
    train.points.clear()
    with pytest.raises(RuntimeError if how == "killed" else SIGTERMException):
        train(Interrupt(step, how))
    again_weights, again_rows, _ = train()
    assert all(torch.equal(a, b) for a, b in zip(again_weights, weights, strict=True))
    assert again_rows == rows
    assert train.points == [0, 1, 2]


@pytest.mark.parametrize("step", [3, 7, 13])
def test_sigterm_saves_first_however_long_ago_the_last_checkpoint_is(train, tmp_path, step):
    with pytest.raises(SIGTERMException):
        train(Interrupt(step, "terminated"), every_min=1000)
    path, _ = find_newest_intact(tmp_path / "work", "last")
    assert path is not None and path.name.startswith(f"last-{step + 1:08d}-")


class InterruptValidation(pl.Callback):
    """SIGTERM while the second epoch is validated."""

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.current_epoch == 1 and batch_idx == 1:
            signal.raise_signal(signal.SIGTERM)


def test_a_sigterm_during_validation_is_obeyed_at_its_end_and_no_step_is_lost(train, tmp_path):
    weights, rows, _ = train()
    empty(tmp_path / "work")
    with pytest.raises(SIGTERMException):
        train(InterruptValidation(), every_min=1000)
    assert list_checkpoints(tmp_path / "work", "last")[0].name.startswith("last-00000014-")
    again_weights, again_rows, _ = train()
    assert all(torch.equal(a, b) for a, b in zip(again_weights, weights, strict=True))
    assert again_rows == rows


class Slow(pl.Callback):
    """20 ms before each batch, which it counts."""

    num = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Slow.num += 1
        time.sleep(0.02)


def test_the_time_of_a_training_that_was_killed_counts_when_it_goes_on(train, tmp_path):
    Slow.num = 0
    with pytest.raises(RuntimeError):
        train(Slow(), Interrupt(10, "killed"), max_time={"hours": 1})
    assert Slow.num == 11
    _, rows, keep = train(Slow(), max_time={"milliseconds": 200})
    assert Slow.num == 11  # its 200 ms were over
    assert keep.find_best_checkpoint().name.startswith("best-00000000-") and [row["epoch"] for row in rows] == [0]


def test_time_that_is_over_within_an_epoch_ends_it_with_a_validation(train, tmp_path):
    _, rows, keep = train(Slow(), max_time={"milliseconds": 1})
    assert [row["epoch"] for row in rows] == [0] and "val_loss" in rows[0]
    assert keep.best_epoch == 0
    assert list_checkpoints(tmp_path / "work", "last")[0].name.startswith("last-00000001-")


def test_time_that_was_over_before_any_epoch_ended_is_named(train):
    with pytest.raises(RuntimeError):
        train(Slow(), Interrupt(3, "killed"), max_time={"hours": 1})
    *_, keep = train(max_time={"milliseconds": 50})
    with pytest.raises(UserError, match=r"ended before an epoch did; raise train\.trainer\.max_time"):
        keep.find_best_checkpoint()


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"val_check_interval": 3}])
@pytest.mark.parametrize("step", [2, 4, 6])
def test_gradients_that_wait_and_validations_that_are_due_are_not_lost(train, tmp_path, options, step):
    weights, rows, _ = train(**options)
    empty(tmp_path / "work")
    with pytest.raises(RuntimeError):
        train(Interrupt(step, "killed"), **options)
    again_weights, again_rows, _ = train(**options)
    assert all(torch.equal(a, b) for a, b in zip(again_weights, weights, strict=True))
    assert again_rows == rows


def test_a_training_that_ended_early_and_was_killed_after_that_does_not_begin_again(train):
    stop = pl.callbacks.EarlyStopping("val_loss", stopping_threshold=1e9)
    _, rows, _ = train(stop)
    assert len(rows) == 1
    _, rows, _ = train(pl.callbacks.EarlyStopping("val_loss", stopping_threshold=1e9))
    assert len(rows) == 1 and train.points == [0]


def test_the_last_two_checkpoints_and_the_best_two_are_kept(train, tmp_path):
    train()
    names = [path.name[:13] for path in list_checkpoints(tmp_path / "work", "last")]
    assert names == ["last-00000021", "last-00000020"]
    assert 1 <= len(list_checkpoints(tmp_path / "work", "best")) <= 2
    assert not list((tmp_path / "work").glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_checkpoint_is_passed_over_and_never_unpickled(train, tmp_path, damage):
    weights, rows, _ = train()
    empty(tmp_path / "work")
    with pytest.raises(RuntimeError):
        train(Interrupt(10, "killed"))
    newest, before = list_checkpoints(tmp_path / "work", "last")
    data = newest.read_bytes()
    half = len(data) // 2
    newest.write_bytes({"cut": data[:half], "bit": data[:half] + b"?" + data[half + 1 :], "empty": b""}[damage])
    assert find_newest_intact(tmp_path / "work", "last") == (before, [newest])
    newest.unlink()
    again_weights, again_rows, _ = train()
    assert all(torch.equal(a, b) for a, b in zip(again_weights, weights, strict=True))
    assert again_rows == rows


def test_what_is_not_what_was_written_is_not_unpickled(tmp_path):
    torch.save(Unsafe(), tmp_path / f"last-00000001-{'0' * 64}.ckpt")
    (path,) = list_checkpoints(tmp_path, "last")
    with pytest.raises(UserError, match="damaged"):
        DigestCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_payload_that_is_named_by_its_own_digest_runs_nothing(train, tmp_path, protocol, is_zip):
    train()
    before = list_checkpoints(tmp_path / "work", "last")[0]
    state = torch.load(before, weights_only=True) | {"payload": Unsafe()}
    payload = tmp_path / "payload"
    torch.save(state, payload, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    path = tmp_path / "work" / f"last-00000099-{hash_file(payload)}.ckpt"
    payload.rename(path)
    assert find_newest_intact(tmp_path / "work", "last") == (path, [])
    with pytest.raises(UserError, match=r"no object is read from a file .*remove it to resume"):
        train()
    path.unlink()
    train()


def test_any_file_that_is_named_by_its_own_digest_gives_one_line(tmp_path):
    for number, data in enumerate([pickle.dumps(Unsafe()), b"", b"no checkpoint"]):
        path = tmp_path / f"last-{number:08d}-{hashlib.sha256(data).hexdigest()}.ckpt"
        path.write_bytes(data)
        with pytest.raises(UserError, match="no object is read from a file"):
            DigestCheckpointIO().load_checkpoint(path)


def test_a_callback_that_saves_an_object_ends_the_training_at_its_first_checkpoint(train, tmp_path):
    class Careless(pl.Callback):
        def state_dict(self):
            return {"object": Unsafe()}

    with pytest.raises(UserError, match=r"objects of \S*_Fail, which cannot be read again"):
        train(Careless())
    assert not list((tmp_path / "work").iterdir())


def test_a_checkpoint_of_ours_needs_no_unpickling(train, tmp_path):
    train()
    for path in list_checkpoints(tmp_path / "work", "last"):
        torch.load(path, weights_only=True)


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_before_it(train, tmp_path):
    with pytest.raises(UserError, match="training loss is not finite at epoch 1, batch 3"):
        train(model=Line(bad_loss_at=10))
    assert list_checkpoints(tmp_path / "work", "last")[0].name.startswith("last-00000010-")


def test_weights_that_are_not_finite_are_kept_by_no_checkpoint(train, tmp_path):
    with pytest.raises(UserError, match="weights are not finite after epoch 1, batch 3"):
        train(model=Line(bad_gradient_at=10))
    newest = list_checkpoints(tmp_path / "work", "last")[0]
    assert newest.name.startswith("last-00000010-")
    state = DigestCheckpointIO().load_checkpoint(newest)["state_dict"]
    assert all(torch.isfinite(weights).all() for weights in state.values())


def test_a_validation_loss_that_is_never_finite_has_no_best_epoch(train):
    *_, keep = train(model=Line(bad_validation=True))
    with pytest.raises(UserError, match="validation loss was never finite"):
        keep.find_best_checkpoint()


def test_sigterm_outside_the_loop_ends_at_once_with_143():
    with pytest.raises(SystemExit) as ended:
        StopRequest()(signal.SIGTERM, None)
    assert ended.value.code == 143


@pytest.mark.parametrize("number", termination.SIGNALS)
def test_a_signal_within_the_loop_is_recorded_and_reported(number):
    signal.signal(number, signal.SIG_DFL)  # SIGHUP is ignored under nohup
    reported: list[int] = []
    stop = StopRequest(reported.append)
    stop.immediate = False
    stop.listen()
    signal.raise_signal(number)
    assert (stop.is_requested, reported) == (True, [number])


def test_a_checkpoint_is_on_the_disk_under_its_digest_and_replaces_the_one_of_its_name(tmp_path, monkeypatch):
    synced: list[tuple[int, int]] = []

    def record(descriptor):
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_size))

    folder = tmp_path / "new" / "work"
    DigestCheckpointIO().save_checkpoint({"step": 1}, folder / "last-00000001")
    other = folder / f"last-00000002-{'0' * 64}.ckpt"
    other.touch()
    monkeypatch.setattr(os, "fsync", record)
    DigestCheckpointIO().save_checkpoint({"step": torch.tensor(2)}, folder / "last-00000001")
    newer, path = list_checkpoints(folder, "last")
    assert newer == other and path.name == f"last-00000001-{hash_file(path)}.ckpt"
    assert synced == [(path.stat().st_ino, path.stat().st_size), (folder.stat().st_ino, folder.stat().st_size)]
    assert sorted(folder.iterdir()) == sorted([newer, path])
    assert DigestCheckpointIO().load_checkpoint(path, map_location="meta") == {"step": torch.tensor(2)}


def test_a_checkpoint_that_cannot_be_read_for_another_reason_is_not_called_an_object(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk fails")

    DigestCheckpointIO().save_checkpoint({}, tmp_path / "last-00000001")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match="the disk fails"):
        DigestCheckpointIO().load_checkpoint(list_checkpoints(tmp_path, "last")[0])


def test_the_newest_intact_checkpoint_is_found_behind_damaged_ones(tmp_path):
    for number in (1, 2, 3):
        DigestCheckpointIO().save_checkpoint({"step": number}, tmp_path / f"last-{number:08d}")
    three, two, one = list_checkpoints(tmp_path, "last")
    assert find_newest_intact(tmp_path, "last") == (three, [])
    for path in (three, two):
        path.write_bytes(b"damaged")
    assert find_newest_intact(tmp_path, "last") == (one, [three, two])
    one.write_bytes(b"damaged")
    assert find_newest_intact(tmp_path, "last") == (None, [three, two, one])
    assert find_newest_intact(tmp_path, "best") == (None, [])


def make_trainer(**changes) -> SimpleNamespace:
    """The parts of a Trainer that decide where a training can resume."""
    state = {"last": False, "should_stop": False, "can_stop": False, "every": 4, "accumulate": 1, "world_size": 1,
             "batch_idx": 0} | changes  # fmt: skip
    progress = SimpleNamespace(is_last_batch=state["last"])
    loop = SimpleNamespace(
        _can_stop_early=state["can_stop"],
        epoch_loop=SimpleNamespace(batch_progress=progress),
        batch_idx=state["batch_idx"],
    )
    return SimpleNamespace(
        fit_loop=loop, should_stop=state["should_stop"], val_check_batch=state["every"],
        accumulate_grad_batches=state["accumulate"], world_size=state["world_size"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "num_done", "expected"),
    [
        ({}, 3, True),
        ({}, 4, False),  # a validation is due
        ({"every": float("inf")}, 4, True),
        ({"last": True}, 3, False),
        ({"should_stop": True, "can_stop": True}, 3, False),
        ({"should_stop": True}, 3, True),
        ({"can_stop": True}, 3, True),
        ({"accumulate": 2}, 3, False),
        ({"accumulate": 2}, 2, True),
        ({"accumulate": 2, "every": 3}, 2, True),
    ],
)
def test_a_training_resumes_where_no_gradient_waits_and_nothing_is_due(changes, num_done, expected):
    assert checkpointing._is_resumable_point(make_trainer(**changes), num_done) is expected


def test_one_rank_decides_alone_and_several_exchange_only_every_ten_batches():
    for answer in ((True, False), (False, True)):
        assert checkpointing._reduce_over_ranks(make_trainer(batch_idx=3), *answer) == answer
        assert checkpointing._reduce_over_ranks(make_trainer(world_size=2, batch_idx=3), *answer) == (False, False)
    for due in ({"batch_idx": 10}, {"batch_idx": 3, "last": True}):
        with pytest.raises(AttributeError, match="strategy"):  # which exchanges
            checkpointing._reduce_over_ranks(make_trainer(world_size=2, **due), True, True)


def test_the_status_after_sigterm_is_the_one_of_shells():
    assert checkpointing.SIGTERM_EXIT_STATUS == 143


def test_a_signal_that_was_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    assert (stop.is_requested, stop.immediate) == (False, True)
    stop.listen()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) is stop
