"""Which engine runs a bundle on this machine, in which precision: the fastest one that was seen to be right.

In fp32 every engine must give PyTorch's probabilities to MAX_DIFFERENCE. A faster precision must name the same
class for nearly all validation pictures, and may lose next to no accuracy on them. What was decided is kept beside
the converted network, for this bundle, this machine and these packages.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imageset.exceptions import UserError
from imageset.executors.base import count_cpus
from imageset.store.reader import StoreSplit
from imageset.utils.atomic_write import write_text
from imageset.utils.text import suggest_name
from lightning_modules.bundle import Bundle
from lightning_modules.calibration import temperature
from lightning_modules.calibration import thresholds as calibration_thresholds
from lightning_modules.inference.availability import describe_unavailability, list_package_versions
from lightning_modules.inference.engines import make_engine
from lightning_modules.scoring import Engine, PyTorchEngine

AUTO = "auto"
ENGINES = ("openvino", "onnxruntime", "pytorch")  # the fastest first, as measured by benchmarks/predict.py
PRECISIONS = ("int8", "bf16", "fp32")
MAX_DIFFERENCE = 1e-3  # of a probability in fp32, from PyTorch's
MAX_COMPARED = 64  # pictures on which that is looked at
MAX_CHECKED = 1000  # validation pictures on which a faster precision is judged


@dataclass(frozen=True)
class AgreementLimits:
    """What a faster precision must keep of fp32 on the validation split.

    Attributes:
        min_agreement: part of the pictures for which both name the same class.
        max_accuracy_loss: part of the pictures, e.g. 0.003 for 0.3 points.
    """

    min_agreement: float
    max_accuracy_loss: float


def select_engine(
    bundle: Bundle,
    engine: str,
    precision: str,
    validation: StoreSplit | None,
    limits: AgreementLimits,
    folder: Path,
) -> tuple[Engine, dict[str, Any]]:
    """An engine that is right, and what is known about it: "engine", "precision", "versions", "seen", "refused".

    Args:
        engine, precision: of ENGINES and PRECISIONS, or "auto".
        validation: the validation split that the bundle was trained beside; None: there is none here.
        folder: where converted networks and decisions are kept.

    Raises:
        UserError: what was asked for is not to be had here, or is not right; says why.
    """
    for asked, known in ((engine, ENGINES), (precision, PRECISIONS)):
        if asked not in (AUTO, *known):
            raise UserError(f"predict: {asked!r}: {suggest_name(asked, (AUTO, *known))}")
    place = folder / f"{_hash_bundle(bundle)}-{_hash_machine()}"
    path, request = place / "engine.json", json.dumps([engine, precision, vars(limits), len(validation or ())])
    decided = _read_decisions(path)
    if request in decided:
        found = decided[request]
        return make_engine(bundle, found["engine"], found["precision"], place, validation), found
    made, found = _try_engines(bundle, engine, precision, _EngineValidator(bundle, validation, limits), place)
    write_text(path, json.dumps(decided | {request: found}, indent=1, sort_keys=True) + "\n")
    return made, found


def _try_engines(
    bundle: Bundle, engine: str, precision: str, judge: _EngineValidator, place: Path
) -> tuple[Engine, dict[str, Any]]:
    refused: dict[str, str] = {}
    for wanted in PRECISIONS if precision == AUTO else (precision,):
        for name in ENGINES if engine == AUTO else (engine,):
            why = describe_unavailability(name, wanted) or judge.describe_missing_data(wanted)
            if why is None:
                try:
                    made = make_engine(bundle, name, wanted, place, judge.validation)
                    right, seen = judge.validate(made)
                except Exception as error:  # whatever a converter raises, each has exceptions of its own
                    right, seen = False, f"cannot run this network ({type(error).__name__})"
                if right:
                    return made, {
                        "engine": name, "precision": wanted, "versions": list_package_versions(name, wanted), "seen": seen,
                        "refused": refused,
                    }  # fmt: skip
                why = seen
            refused[f"{name} {wanted}"] = why
    reasons = "; ".join(f"{one}: {why}" for one, why in refused.items())
    raise UserError(f"--engine {engine} --precision {precision}: {reasons}")


class _EngineValidator:
    """Compares engines with PyTorch in fp32."""

    def __init__(self, bundle: Bundle, validation: StoreSplit | None, limits: AgreementLimits) -> None:
        self.bundle, self.validation, self.limits = bundle, validation, limits
        self._reference: dict[int, np.ndarray] = {}

    def describe_missing_data(self, precision: str) -> str | None:
        """Why a precision cannot be judged here, or None."""
        if precision != "fp32" and not self.validation:
            return "the validation pictures that it must be judged on are not here"
        return None

    def validate(self, engine: Engine) -> tuple[bool, str]:
        """Whether an engine is right, and what was seen."""
        return self._check_same(engine) if engine.precision == "fp32" else self._check_agreement(engine)

    def _check_same(self, engine: Engine) -> tuple[bool, str]:
        if engine.name == "pytorch":
            return True, "is the reference"
        difference = float(np.abs(self._probabilities(engine, MAX_COMPARED) - self._expected_probabilities(MAX_COMPARED)).max())
        return difference <= MAX_DIFFERENCE, f"probabilities differ from PyTorch's by up to {difference:.0e}"

    def _check_agreement(self, engine: Engine) -> tuple[bool, str]:
        assert self.validation is not None
        ours, theirs = (self._predict(one) for one in (self._probabilities(engine, MAX_CHECKED),
                                                    self._expected_probabilities(MAX_CHECKED)))  # fmt: skip
        labels = self.validation.labels[: len(ours)]
        agreement = _compute_agreement(ours, theirs)
        accuracy, expected = _compute_agreement(ours, labels), _compute_agreement(theirs, labels)
        right = agreement >= self.limits.min_agreement
        right = right and accuracy >= expected - self.limits.max_accuracy_loss - 1e-9
        return right, (
            f"agrees with fp32 on {agreement:.2%} of {len(ours):,} validation pictures, "
            f"accuracy {accuracy:.4f} (fp32 {expected:.4f})"
        )

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        """The class, int (n,), or with several labels a picture their set, bool (n, num_classes)."""
        thresholds = self.bundle.info.thresholds
        return (
            probabilities.argmax(1)
            if thresholds is None
            else calibration_thresholds.apply_thresholds(probabilities, thresholds)
        )

    def _expected_probabilities(self, num: int) -> np.ndarray:
        if num not in self._reference:
            self._reference[num] = self._probabilities(PyTorchEngine(self.bundle), num)
        return self._reference[num]

    def _probabilities(self, engine: Engine, num: int) -> np.ndarray:
        with engine.open_streams() as streams:
            logits = np.concatenate(list(streams.map(engine.logits, self._batches(num))))
        return temperature.to_probabilities(logits, self.bundle.info.temperature, self.bundle.info.multi_label)

    def _batches(self, num: int) -> Iterator[np.ndarray]:
        """The first validation pictures, or noise where there are none, some at a time."""
        if self.validation:
            ends = range(0, min(num, len(self.validation)), 8)
            return (self.validation.read_batch(np.arange(i, min(i + 8, num, len(self.validation)))) for i in ends)
        draw = np.random.default_rng(0)
        return (draw.integers(0, 256, (8, *self.bundle.spec.shape), np.uint8) for _ in range(0, num, 8))


def _compute_agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The part of the pictures of which both say the same: all of a row where there are several labels."""
    return float((one == other).reshape(len(one), -1).all(axis=1).mean())


def _hash_bundle(bundle: Bundle) -> str:
    return hashlib.sha256(f"{bundle.digest}{bundle.info}".encode()).hexdigest()[:16]


def _hash_machine() -> str:
    """What decides how fast and how right engines are: processor, GPU, and the packages."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    said = [platform.machine(), _read_cpu_flags(), count_cpus(), device, list_package_versions("openvino", "int8"),
            list_package_versions("onnxruntime", "fp32")]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]


def _read_cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")


def _read_decisions(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
