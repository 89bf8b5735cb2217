"""Bundles: a trained network with everything that a prediction needs, in one folder.

`weights.safetensors` holds the network's weights. `bundle.json` holds the network's class and arguments, the names
of the classes, the decoding and normalization of images, the calibration, and the origin: data, code and
environment. `reference.safetensors` describes the validation images as the network sees them (see
`features.reference_sample`). `code/` holds the project's own modules that the network is built from, if there are
any: the model keeps predicting the same after they are edited. `bundle.json` also holds the digests of the other
files and of its own content. Loading checks all digests and unpickles nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from imageset.decoding.spec import DecodeSpec
    from lightning_modules.features.reference_sample import ImageSample

WEIGHTS_FILE, MANIFEST_FILE = "weights.safetensors", "bundle.json"
REFERENCE_FILE = "reference.safetensors"
REFERENCE_DIGEST_KEY = "reference_sha256"  # in the manifest; missing from bundles that have no reference
# In the place of a reference that held the features of a picture which was forgotten (flows.retention).
FORGOTTEN_NOTE = "reference.forgotten"
FORGOTTEN_TEXT = b"The reference sample was removed: `convoy forget` has removed a picture that was in it.\n"
CODE_FOLDER = "code"
CODE_DIGESTS_KEY = "code_sha256"  # in the manifest: name of a file in CODE_FOLDER -> digest; missing without code
FORMAT = 2  # format 1 had no digest of the manifest


@dataclass(frozen=True)
class BundleInfo:
    """The description of a bundle, as `bundle.json` holds it.

    A field with a default may be missing, so that bundles load that were written before the field existed.

    Attributes:
        network: {"class_path", "init_args"}; the class takes (in_channels, num_classes, **init_args).
        classes: names; position = index of the logit.
        decode: a `DecodeSpec` as a mapping.
        mean: of each channel, in units of 0..1.
        std: of each channel, in units of 0..1.
        dataset: {"name", "fingerprint", "digest"} of the training data; digest is DVC's.
        metrics: of the best epoch on the validation split.
        temperature: divisor of the logits before they become probabilities; see `calibration.temperature`.
        thresholds: of a multi-label model, for each class the probability from which on it is predicted; see
            `calibration.thresholds`. None: an image has exactly one class.
        abstain_below: confidence below which no label is predicted; None: a label is always predicted.
        git_commit: the commit that was checked out during the training.
        lock_sha256: digest of requirements.lock.
        fitted_splits: the splits whose images the weights were fitted to; None: not recorded.
    """

    network: dict[str, Any]
    classes: tuple[str, ...]
    decode: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: dict[str, str]
    metrics: dict[str, float]
    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    abstain_below: float | None = None
    git_commit: str | None = None
    lock_sha256: str | None = None
    fitted_splits: tuple[str, ...] | None = None

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.thresholds is not None

    def to_prediction(self, probabilities: np.ndarray) -> tuple[str, float]:
        """Return the predicted label of an image and the confidence, from its probabilities (num_classes,).

        That is the best class and its probability; for a multi-label model the labels at or above their thresholds
        as one string (see `imageset.labels`), and the probability of the least confident of all decisions.
        """
        from lightning_modules.calibration import thresholds  # it loads NumPy, which `convoy status` does not need

        if self.thresholds is None:
            best = int(probabilities.argmax())
            return self.classes[best], float(probabilities[best])
        predicted = thresholds.apply_thresholds(probabilities, self.thresholds)
        confidence = float(thresholds.compute_confidence(probabilities, predicted))
        return thresholds.join_labels(self.classes, predicted), confidence


@dataclass(frozen=True)
class Bundle:
    """A trained network with everything that a prediction needs.

    Attributes:
        info: the description.
        network: in evaluation mode; returns logits.
        digest: SHA-256 of the manifest's content, the digest of the weights included.
        reference: the bytes of `features.reference_sample.ImageSample`, if the bundle has a reference.
        code: the project's own modules that the network is built from, by the paths of their copies.
    """

    info: BundleInfo
    network: nn.Module
    digest: str
    reference: bytes | None = None
    code: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def spec(self) -> DecodeSpec:
        """The specification of how image bytes are decoded."""
        from imageset.decoding.spec import DecodeSpec

        return DecodeSpec.from_dict(self.info.decode)

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Load a bundle and check its digests.

        Raises:
            UserError: the folder is not a bundle, the weights are not those it was saved with, or the network's
                class is not installed.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = Path(folder)
        info, digest = check_bundle(folder)
        from lightning_modules.networks.factory import make_network
        from lightning_modules.project_code.code_copy import CodeCopy

        code = {
            name: _read_file(folder / CODE_FOLDER / name) for name in _read_code_digests(_read_manifest(folder))
        }
        network = make_network(info.network, len(info.mean), len(info.classes), CodeCopy(code) if code else None)
        try:
            network.load_state_dict(load(_read_file(folder / WEIGHTS_FILE)))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder / WEIGHTS_FILE}: the weights do not fit {info.network['class_path']}; "
                "if its code has changed since, train again with `dvc repro -f train`"
            ) from error
        reference = folder / REFERENCE_FILE
        return cls(info, network.eval(), digest, _read_file(reference) if reference.exists() else None, code)


def check_bundle(folder: Path) -> tuple[BundleInfo, str]:
    """Check all digests of a bundle, and return its description and its digest. Needs no PyTorch.

    Raises:
        UserError: the folder is not a bundle, or its files were changed after they were saved.
    """
    manifest = _read_manifest(folder)
    weights = folder / WEIGHTS_FILE
    if hashlib.sha256(_read_file(weights)).hexdigest() != manifest["weights_sha256"]:
        raise UserError(f"{weights}: these are not the weights that {MANIFEST_FILE} names; get the bundle again")
    _check_reference(folder / REFERENCE_FILE, manifest.get(REFERENCE_DIGEST_KEY))
    for name, expected in _read_code_digests(manifest).items():
        path = folder / CODE_FOLDER / name
        if hashlib.sha256(_read_file(path)).hexdigest() != expected:
            raise UserError(f"{path}: this is not the code that {MANIFEST_FILE} names; get the bundle again")
    values = {name: _to_tuple(value) for name, value in manifest["info"].items()}
    unknown = sorted(values.keys() - {field.name for field in fields(BundleInfo)})
    if unknown:
        raise UserError(
            f"{folder / MANIFEST_FILE}: contains {', '.join(unknown)}, which only a later Convoy understands"
        )
    return BundleInfo(**values), hash_manifest(manifest)


def list_missing_files(folder: Path) -> list[Path]:
    """Return the files of a bundle that are not in its folder; their contents are not read.

    Args:
        folder: of the bundle.
    """
    try:
        manifest = _read_manifest(folder)
    except UserError:
        return [folder / MANIFEST_FILE]
    has_reference = manifest.get(REFERENCE_DIGEST_KEY) and not (folder / FORGOTTEN_NOTE).exists()
    names = [WEIGHTS_FILE, *([REFERENCE_FILE] if has_reference else [])]
    names += [f"{CODE_FOLDER}/{name}" for name in _read_code_digests(manifest)]
    return [folder / name for name in names if not (folder / name).is_file()]


def hash_manifest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content, except for its own digest."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_bundle(
    folder: Path,
    info: BundleInfo,
    network: nn.Module,
    reference: ImageSample | None = None,
    code: Mapping[str, bytes] | None = None,
) -> None:
    """Write a bundle into an existing folder, the manifest last.

    Args:
        folder: of the bundle.
        info: its description.
        network: the trained network.
        reference: the validation images as the network sees them.
        code: the project's own modules that the network is built from, by the paths of their copies.
    """
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    weights = save(state)
    write_bytes(folder / WEIGHTS_FILE, weights)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "info": asdict(info),
    }
    (folder / FORGOTTEN_NOTE).unlink(missing_ok=True)
    if reference is None:
        (folder / REFERENCE_FILE).unlink(missing_ok=True)
    else:
        data = reference.to_bytes()
        write_bytes(folder / REFERENCE_FILE, data)
        manifest[REFERENCE_DIGEST_KEY] = hashlib.sha256(data).hexdigest()
    shutil.rmtree(folder / CODE_FOLDER, ignore_errors=True)
    for name, data in (code or {}).items():
        (folder / CODE_FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / CODE_FOLDER / name, data)
        manifest.setdefault(CODE_DIGESTS_KEY, {})[name] = hashlib.sha256(data).hexdigest()
    manifest["sha256"] = hash_manifest(manifest)
    write_bytes(folder / MANIFEST_FILE, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    text = _read_file(path)
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); train again with `dvc repro -f train`") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in range(1, FORMAT + 1):
        raise UserError(f"{path}: not a bundle of format {FORMAT}; train again with `dvc repro -f train`")
    if manifest["format"] > 1 and manifest.get("sha256") != hash_manifest(manifest):
        raise UserError(f"{path}: was changed after it was written; get the bundle again")
    return manifest


def _read_code_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    return manifest.get(CODE_DIGESTS_KEY) or {}


def _check_reference(path: Path, digest: str | None) -> None:
    if not path.exists() and (digest is None or path.with_name(FORGOTTEN_NOTE).exists()):
        return
    if digest is None or hashlib.sha256(_read_file(path)).hexdigest() != digest:
        raise UserError(f"{path}: this is not the reference that {MANIFEST_FILE} names; get the bundle again")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; train first with `dvc repro`") from error


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
