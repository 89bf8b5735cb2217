import io
import re

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import nn

from imageset.utils import progress
from lightning_modules.training.callbacks import TrainingProgress
from tests.helpers.training import make_loader, make_sgd, make_trainer


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch, number):
        images, labels = batch
        loss = F.cross_entropy(self.layer(images.float().flatten(1)), labels)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def test_step(self, batch, number) -> None:
        self.layer(batch[0].float().flatten(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_sgd(self.parameters())


@pytest.fixture(params=[True, False])
def stream(request, monkeypatch) -> io.StringIO:
    """The standard error: a terminal, or a log."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: request.param, raising=False)
    monkeypatch.setattr(progress, "BAR_DELAY_S", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.0)
    monkeypatch.setattr(TrainingProgress, "SECONDS_BETWEEN_LINES", 0.0)
    return stream


def test_a_training_and_a_test_show_a_bar_in_a_terminal_and_plain_lines_in_a_log(stream, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)  # here: pytest sets its own between a fixture and its test
    trainer = make_trainer(tmp_path, 2, callbacks=[TrainingProgress("train")])
    model = Tiny()
    trainer.fit(model, make_loader())
    shown = stream.getvalue()
    trainer.test(model, make_loader(), verbose=False)
    tested = stream.getvalue().removeprefix(shown)
    for epoch in (1, 2):
        assert re.search(rf"train: epoch {epoch}/2, train_loss \d+\.\d{{4}}, val_loss nan", shown)
    if stream.isatty():
        assert re.search(r"train: 2 epochs: +50%\|.*\| 4/8 batches, +[\d.]+ batches/s, 00:00 left", shown)
        assert re.search(r"train: test pictures: +75%\|.*\| 3/4 batches", tested)
    else:
        assert "train: 2 epochs: 8/8 batches (100%)\n" in shown and "train: test pictures: 4/4 batches" in tested
        assert "|" not in shown + tested and "\r" not in shown + tested


def test_a_trial_reports_its_batches_and_no_epochs(stream, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    make_trainer(tmp_path, 2, callbacks=[TrainingProgress("train", "trial of ConvNet")]).fit(Tiny(), make_loader())
    assert "trial of ConvNet" in stream.getvalue() and "epoch" not in stream.getvalue()
