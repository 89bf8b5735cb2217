"""LightningCLI for one section of params.yaml: builds the trainer, the model and the data of a stage."""

import logging
import re
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from imageset.exceptions import UserError
from imageset.params import load_section
from imageset.utils.text import suggest_name
from lightning_modules.networks import registry
from lightning_modules.training.callbacks import TrainingProgress
from lightning_modules.training.distributed import apply_torchrun_env

TRAINER_DEFAULTS = {
    "logger": False,  # callbacks.MetricHistory logs the metrics to MLflow
    "enable_model_summary": False,
    "enable_progress_bar": False,  # callbacks.TrainingProgress shows it
    "use_distributed_sampler": False,  # datamodule.BatchSampler gives each rank its share
    "num_sanity_val_steps": 0,
    "enable_checkpointing": False,  # fit adds checkpointing.ResumableCheckpoint
}
STAGE_KEYS = {
    "seed_everything", "threads", "stop_at_error", "patience", "budget", "abstain_below", "checkpoint_every_min",
    "reference_pictures",
    "trainer", "data", "model",
}  # fmt: skip
HIDDEN_KEYS = ("help", "config", "print_config")  # LightningCLI adds them for a command line


class StageParser(LightningArgumentParser):
    """A parser whose errors are one line and name the wrong key and the nearest known key."""

    stage = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UserError instead of printing the usage.

        Raises:
            UserError: always; the message names the key.
        """
        prefix = f"params.yaml: {self.stage}: "
        # the parser of a class's arguments calls this method too, before the outer parser does
        text = " ".join(message.split()).replace(prefix, "")
        raise UserError(prefix + self._simplify_message(text)) from ex

    def _simplify_message(self, text: str) -> str:
        actions = self._actions  # private API of argparse, read in Python 3.11 with jsonargparse 4.53.0
        known = [a.dest for a in actions if a.dest not in HIDDEN_KEYS and not a.dest.endswith(".help")]
        text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
        text = re.sub(
            r"^(?:[\w.]+: )?Group '([\w.]+)' does not accept option '([\w.]+)'",
            r"Option '\1.\2' is not accepted",
            text,
        )
        if unknown := re.fullmatch(r"Option '([\w.]+)' is not accepted", text):
            return f"unknown key '{unknown[1]}'; {suggest_name(unknown[1], known)}"
        if required := re.fullmatch(r"the following arguments are required: (.+)", text):
            return f"the key '{required[1]}' is missing"
        if misfit := re.match(
            r"(.+?): Does not validate .*?Subtypes: \[(.+?)\] Errors: .*Given value: (.*)$", text
        ):
            # build_stage replaces `auto` before Lightning sees the precision
            extra = "auto, " if misfit[1] == "trainer.precision" else ""
            return f"{misfit[1]}: {misfit[3]!r} does not fit; expected {extra}{_format_types(misfit[2])}"
        if missing := re.match(r"(.+?): Type .* callable class: (.+?)\. Got value: .*class_path='([\w.]+)'", text):
            return f"{missing[1]}.class_path: {missing[3]!r} cannot be used: {missing[2]}"
        return text[:400]


def _format_types(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"Literal\[([^\]]*)\]", r"\1", text)
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", text).replace("NoneType", "null")[:200]


class StageCLI(LightningCLI):
    """Builds the trainer, the model and the data of a stage, and runs nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys of the section that are not the trainer's, the model's or the data's."""
        parser.add_argument("--stop_at_error", type=float | None, default=None)
        parser.add_argument("--abstain_below", type=float | None, default=None)
        if getattr(parser, "stage", "") == "train":
            parser.add_argument("--checkpoint_every_min", type=float, required=True)
            parser.add_argument("--reference_pictures", type=int, required=True)
            parser.add_argument("--threads", type=int | None, default=None)
            parser.add_argument("--patience", type=int | None, default=None)
            parser.add_argument("--budget", type=float | None, default=None)


def build_stage(
    stage: str,
    model: type[LightningModule] | Any,
    data: type[LightningDataModule],
    path: Path,
    stage_keys: Collection[str] = (),
) -> StageCLI:
    """Build the objects that a stage's section of params.yaml describes.

    Args:
        stage: name of the section.
        model: class of the model.
        data: class of the data module.
        path: path of params.yaml.
        stage_keys: keys of the section that the stage reads itself.

    Returns:
        The CLI with the attributes `trainer`, `model`, `datamodule` and `config`.

    Raises:
        UserError: the file, a key, a class path or a value is wrong; the message names it.
    """
    silence_lightning()
    section = load_section(path, stage)
    known_keys = STAGE_KEYS.union(stage_keys)
    for key in section.keys() - known_keys:  # LightningCLI ignores an unknown key whose value is empty
        raise UserError(f"{path}: {stage}: unknown key '{key}'; {suggest_name(key, known_keys)}")
    section = {key: value for key, value in section.items() if key not in stage_keys}
    if "network" in (section.get("model") or {}):
        section["model"]["network"] = complete_network_spec(section["model"]["network"], stage)
    if stage == "train" and isinstance(section.get("trainer"), dict):
        section["trainer"] = apply_torchrun_env(section["trainer"])
    if isinstance(section.get("trainer"), dict) and section["trainer"].get("precision") == "auto":
        section["trainer"]["precision"] = choose_precision(section["trainer"].get("accelerator"))
    parser_class = type("Parser", (StageParser,), {"stage": stage})
    argv, sys.argv = sys.argv, sys.argv[:1]  # LightningCLI warns about arguments that it does not read
    try:
        return StageCLI(
            model,
            data,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS | {"callbacks": [TrainingProgress(stage)]},
            parser_class=parser_class,
            args=section,
            run=False,
            auto_configure_optimizers=False,
        )
    except UserError:
        raise
    except (TypeError, ValueError, ImportError, AttributeError, MisconfigurationException) as error:
        raise UserError(f"params.yaml: {stage}: {' '.join(str(error).split())[:400]}") from error
    finally:
        sys.argv = argv


def complete_network_spec(network: Any, stage: str) -> dict[str, Any]:
    """Return `model.network` in its full form, with the value of every argument of the network.

    Args:
        network: the value of `model.network`: a name, a class path, a mapping, or `auto`, which stays as it is.
        stage: name of the section, for messages.

    Returns:
        {"class_path", "init_args"}.

    Raises:
        UserError: there is no such network, or it does not take these arguments.
    """
    if network == registry.AUTO:
        return {"class_path": registry.AUTO, "init_args": {}}
    try:
        spec = registry.parse_network_spec(network)
        factory = registry.import_network(spec["class_path"])
    except UserError as error:
        raise UserError(f"params.yaml: {stage}: {error}") from error
    parser = type("Parser", (StageParser,), {"stage": f"{stage}.model.network"})()
    from_dataset = set(registry.list_dataset_arguments(factory))
    if isinstance(factory, type):
        parser.add_class_arguments(factory, skip=from_dataset, fail_untyped=False)
    else:
        parser.add_function_arguments(factory, skip=from_dataset, fail_untyped=False)
    arguments = _to_plain(parser.parse_object(spec["init_args"]))
    arguments.pop("config", None)
    return {"class_path": spec["class_path"], "init_args": arguments}


def choose_precision(accelerator: str | None) -> str:
    """Return the precision for `auto`: bf16-mixed if the GPU or the CPU has bf16 in hardware, else 32-true."""
    if accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in (None, "auto", "cpu"):
        has_bf16 = cpu_has_bf16()
    else:
        has_bf16 = False
    return "bf16-mixed" if has_bf16 else "32-true"


def cpu_has_bf16() -> bool:
    """Return whether the CPU has AVX512-BF16 or AMX, where a convolution takes about half the time of float32."""
    # private API of torch, read in 2.15.0
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def silence_lightning() -> None:
    """Keep Lightning's tips and banners out of the log; its errors are still logged."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*(No positive samples|Average precision score for one or more).*")


def to_plain_config(config: Any) -> dict[str, Any]:
    """Return a parsed configuration as plain mappings, lists and scalars, without LightningCLI's key `config`."""
    loaded: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_to_plain(config)))
    loaded.pop("config", None)
    return loaded


def _to_plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
