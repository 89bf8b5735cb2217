"""LightningCLI over a section of params.yaml: what it says is what Lightning gets."""

import difflib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from imageset.errors import UserError
from imageset.params import load_section
from lightning_modules.callbacks import PlainProgress

ALWAYS = {
    "logger": False,  # curves go to MLflow through callbacks.Curves
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # datamodule.BatchSampler gives each rank its part
    "num_sanity_val_steps": 0,
}


class StageParser(LightningArgumentParser):
    """A parser whose errors name the wrong key and the nearest right one, in one line."""

    stage = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises UserError instead of printing a page of usage."""
        raise UserError(f"params.yaml: {self.stage}: {self._one_line(message)}") from ex

    def _one_line(self, message: str) -> str:
        text = " ".join(message.split())
        unknown = re.search(r"(?:Key|Option|Group) '([\w.]+)' (?:is not expected|does not exist)", text)
        if unknown is None:
            return text[:400]
        key = unknown.group(1)
        known = {action.dest for action in self._actions}
        near = difflib.get_close_matches(key, sorted(known), n=1)
        return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")


class StageCLI(LightningCLI):
    """Builds trainer, model and data of one stage, and starts nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--stop_at_error", type=float | None, default=None)


def build_stage(
    stage: str, model: type[LightningModule] | Any, data: type[LightningDataModule], path: Path
) -> StageCLI:
    """The stage's section of params.yaml as objects: `.trainer`, `.model`, `.datamodule`, `.config`.

    Raises:
        UserError: the file, a key, a class path or a value is wrong; the message names it.
    """
    quiet_lightning()
    section = load_section(path, stage)
    parser_class = type("Parser", (StageParser,), {"stage": stage})
    argv, sys.argv = sys.argv, sys.argv[:1]  # LightningCLI warns of arguments it is not asked to read
    try:
        return StageCLI(
            model,
            data,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=ALWAYS | {"callbacks": [progress_callback()]},
            parser_class=parser_class,
            args=section,
            run=False,
            auto_configure_optimizers=False,
        )
    except (TypeError, ImportError, AttributeError) as error:
        raise UserError(f"params.yaml: {stage}: {' '.join(str(error).split())[:400]}") from error
    finally:
        sys.argv = argv


def progress_callback() -> Any:
    """A bar in a terminal, plain lines in a log."""
    return TQDMProgressBar(leave=True) if sys.stderr.isatty() else PlainProgress(every_s=10.0)


def quiet_lightning() -> None:
    """Lightning's tips and banners stay out of the log; its errors stay in."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")


def plain(config: Any) -> dict[str, Any]:
    """A parsed configuration as plain mappings, lists and numbers."""
    loaded: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_strip(config)))
    return loaded


def _strip(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _strip(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strip(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
