"""Select the engine and the precision that run a bundle on this machine: the fastest that pass a validation.

In fp32 every engine must reproduce PyTorch's probabilities to within MAX_DIFFERENCE. A faster precision must
predict the same class for nearly all validation images, and may lose almost no accuracy on them. The decision is
stored beside the converted network, for this bundle, this machine and these packages; not if an engine failed for
a reason that may have passed at the next call.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imageset.exceptions import UserError
from imageset.executors.base import count_cpus
from imageset.store.reader import StoreSplit
from imageset.utils.integrity.checked_file import read_checked, write_checked
from imageset.utils.text import suggest_name
from lightning_modules.bundle import Bundle
from lightning_modules.calibration import temperature
from lightning_modules.calibration import thresholds as calibration_thresholds
from lightning_modules.inference.availability import (
    describe_unavailability,
    is_lasting_failure,
    list_package_versions,
)
from lightning_modules.inference.engines import make_engine
from lightning_modules.scoring import Engine, PyTorchEngine

AUTO = "auto"
ENGINES = ("openvino", "onnxruntime", "pytorch")  # the fastest first, as measured by benchmarks/predict.py
PRECISIONS = ("int8", "bf16", "fp32")
MAX_DIFFERENCE = 1e-3  # of a probability in fp32, from PyTorch's
MAX_COMPARED = 64  # images on which fp32 engines are compared
MAX_CHECKED = 1000  # validation images on which a faster precision is validated


@dataclass(frozen=True)
class AgreementLimits:
    """Limits on how far a faster precision may deviate from fp32 on the validation split.

    Attributes:
        min_agreement: share of the images for which both predict the same class.
        max_accuracy_loss: as a share of the images, e.g. 0.003 for 0.3 points.
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
    report: Callable[[str], None] = print,
) -> tuple[Engine, dict[str, Any]]:
    """Select an engine for a bundle; reuse the decision if there is one.

    Args:
        bundle: the bundle to run.
        engine: one of ENGINES, or "auto".
        precision: one of PRECISIONS, or "auto".
        validation: the validation split of the bundle's training; None if it is not on this machine.
        limits: what a faster precision must satisfy.
        folder: holds converted networks and decisions.
        report: shows a line about a file of the folder that is damaged; the file is made again.

    Returns:
        The engine and the decision: "engine", "precision", "versions", "seen" (the result of the validation), and
        "refused" (the combinations that were rejected, each with the reason).

    Raises:
        UserError: the request is unknown, unavailable on this machine, or fails the validation; names the reasons.
    """
    for requested, known in ((engine, ENGINES), (precision, PRECISIONS)):
        if requested not in (AUTO, *known):
            raise UserError(f"predict: {requested!r}: {suggest_name(requested, (AUTO, *known))}")
    engine_folder = folder / f"{_hash_bundle(bundle)}-{_hash_machine()}"
    path = engine_folder / "engine.json"
    request = json.dumps([engine, precision, vars(limits), len(validation or ())])
    decisions = _read_decisions(path, report)
    if request in decisions:
        decision = decisions[request]
        name, kind = decision["engine"], decision["precision"]
        return make_engine(bundle, name, kind, engine_folder, validation, report), decision
    validator = _EngineValidator(bundle, validation, limits)
    selected, decision, is_lasting = _try_engines(bundle, engine, precision, validator, engine_folder, report)
    if is_lasting:
        text = json.dumps(decisions | {request: decision}, indent=1, sort_keys=True) + "\n"
        write_checked(path, text.encode())
    return selected, decision


def _try_engines(
    bundle: Bundle,
    engine: str,
    precision: str,
    validator: _EngineValidator,
    folder: Path,
    report: Callable[[str], None],
) -> tuple[Engine, dict[str, Any], bool]:
    """Return the first engine that passes, the decision, and whether it would be the same at the next call."""
    rejected: dict[str, str] = {}
    is_lasting = True
    for tried in PRECISIONS if precision == AUTO else (precision,):
        for name in ENGINES if engine == AUTO else (engine,):
            reason = describe_unavailability(name, tried) or validator.describe_missing_data(tried)
            if reason is None:
                try:
                    candidate = make_engine(bundle, name, tried, folder, validator.validation, report)
                    passes, result = validator.validate(candidate)
                except Exception as error:  # each converter has exceptions of its own
                    passes, result = False, f"cannot run this network ({type(error).__name__})"
                    is_lasting = is_lasting and is_lasting_failure(error)
                if passes:
                    decision = {
                        "engine": name, "precision": tried, "versions": list_package_versions(name, tried),
                        "seen": result, "refused": rejected,
                    }  # fmt: skip
                    return candidate, decision, is_lasting
                reason = result
            rejected[f"{name} {tried}"] = reason
    reasons = "; ".join(f"{combination}: {reason}" for combination, reason in rejected.items())
    raise UserError(f"--engine {engine} --precision {precision}: {reasons}")


class _EngineValidator:
    """Comparison of engines with PyTorch in fp32."""

    def __init__(self, bundle: Bundle, validation: StoreSplit | None, limits: AgreementLimits) -> None:
        self.bundle, self.validation, self.limits = bundle, validation, limits
        self._reference: dict[int, np.ndarray] = {}

    def describe_missing_data(self, precision: str) -> str | None:
        """Return why a precision cannot be validated here, or None if it can."""
        if precision != "fp32" and not self.validation:
            return "needs the validation pictures, which are not on this machine"
        return None

    def validate(self, engine: Engine) -> tuple[bool, str]:
        """Return whether an engine passes, and the result of the comparison as text."""
        return self._check_same(engine) if engine.precision == "fp32" else self._check_agreement(engine)

    def _check_same(self, engine: Engine) -> tuple[bool, str]:
        if engine.name == "pytorch":
            return True, "is the reference"
        expected = self._expected_probabilities(MAX_COMPARED)
        difference = float(np.abs(self._predict_proba(engine, MAX_COMPARED) - expected).max())
        return difference <= MAX_DIFFERENCE, f"probabilities differ from PyTorch's by up to {difference:.0e}"

    def _check_agreement(self, engine: Engine) -> tuple[bool, str]:
        assert self.validation is not None
        predicted = self._predict(self._predict_proba(engine, MAX_CHECKED))
        predicted_fp32 = self._predict(self._expected_probabilities(MAX_CHECKED))
        labels = self.validation.labels[: len(predicted)]
        agreement = _compute_agreement(predicted, predicted_fp32)
        accuracy, accuracy_fp32 = _compute_agreement(predicted, labels), _compute_agreement(predicted_fp32, labels)
        passes = agreement >= self.limits.min_agreement
        passes = passes and accuracy >= accuracy_fp32 - self.limits.max_accuracy_loss - 1e-9
        return passes, (
            f"agrees with fp32 on {agreement:.2%} of {len(predicted):,} validation pictures, "
            f"accuracy {accuracy:.4f} (fp32 {accuracy_fp32:.4f})"
        )

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the classes, int (n,), or in a multi-label dataset the sets of labels, bool (n, num_classes)."""
        thresholds = self.bundle.info.thresholds
        return (
            probabilities.argmax(1)
            if thresholds is None
            else calibration_thresholds.apply_thresholds(probabilities, thresholds)
        )

    def _expected_probabilities(self, num: int) -> np.ndarray:
        if num not in self._reference:
            self._reference[num] = self._predict_proba(PyTorchEngine(self.bundle), num)
        return self._reference[num]

    def _predict_proba(self, engine: Engine, num: int) -> np.ndarray:
        with engine.open_streams() as streams:
            logits = np.concatenate(list(streams.map(engine.logits, self._iter_batches(num))))
        return temperature.to_probabilities(logits, self.bundle.info.temperature, self.bundle.info.multi_label)

    def _iter_batches(self, num: int) -> Iterator[np.ndarray]:
        """Return batches of the first `num` validation images, or of noise if there are none."""
        if self.validation:
            ends = range(0, min(num, len(self.validation)), 8)
            return (self.validation.read_batch(np.arange(i, min(i + 8, num, len(self.validation)))) for i in ends)
        rng = np.random.default_rng(0)
        return (rng.integers(0, 256, (8, *self.bundle.spec.shape), np.uint8) for _ in range(0, num, 8))


def _compute_agreement(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Return the share of the images with equal rows: the class, or all labels in a multi-label dataset."""
    return float((predicted == expected).reshape(len(predicted), -1).all(axis=1).mean())


def _hash_bundle(bundle: Bundle) -> str:
    return hashlib.sha256(f"{bundle.digest}{bundle.info}".encode()).hexdigest()[:16]


def _hash_machine() -> str:
    """Return a hash of all that decides how fast and how accurate engines are: processor, GPU and packages."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    packages = [list_package_versions("openvino", "int8"), list_package_versions("onnxruntime", "fp32")]
    facts = [platform.machine(), _read_cpu_flags(), count_cpus(), device, *packages]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def _read_cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")


def _read_decisions(path: Path, report: Callable[[str], None]) -> dict[str, Any]:
    data = read_checked(path, "the engines are compared again", report)
    try:
        decisions: dict[str, Any] = json.loads(data or b"{}")
    except ValueError:
        return {}
    return decisions
