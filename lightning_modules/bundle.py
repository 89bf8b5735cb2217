"""What is registered: one folder that says everything a prediction needs.

`weights.safetensors` holds the network's weights, `bundle.json` the network's class and arguments, the classes
by name, how pictures are decoded and normalized, how sure it is, and from which data, code and environment it is.
`reference.safetensors` says what the validation pictures look like to it (see `reference`).
`bundle.json` names the digests of the other two and of its own content; all are checked on loading, and nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes
from lightning_modules.calibration import thresholds

if TYPE_CHECKING:
    from torch import nn

    from lightning_modules.features.reference_sample import ImageSample


WEIGHTS_FILE, MANIFEST_FILE = "weights.safetensors", "bundle.json"
REFERENCE_DIGEST_KEY = (
    "reference_sha256"  # in the manifest; a bundle that was written before there was one has none
)
FORMAT = 2  # 1 had no digest of the manifest


@dataclass(frozen=True)
class BundleInfo:
    """The words of a bundle.

    Attributes:
        network: {"class_path", "init_args"}; the class takes (in_channels, num_classes, **init_args).
        classes: names; position = index of the logit.
        decode: a `DecodeSpec` as a mapping.
        mean, std: of each channel, in units of 0..1.
        dataset: {"name", "fingerprint", "digest"} of the training data; digest is DVC's.
        metrics: of the best epoch on the validation split.
        temperature: what logits are divided by before they become probabilities, see `calibration`.
        thresholds: of each class, where a picture may bear several: it is said from this probability on, see
            `several`; None: a picture is of one class.
        abstain_below: where the best probability is lower there is no answer; None: always an answer.
        git_commit: the commit that was checked out when it was trained.
        lock_sha256: digest of requirements.lock.

    A field that has a default may be missing: bundles that were written before there was such a field load.
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

    @property
    def multi_label(self) -> bool:
        """Whether a picture may bear several of the classes, or none."""
        return self.thresholds is not None

    def to_prediction(self, probabilities: np.ndarray) -> tuple[str, float]:
        """What is said of a picture with these probabilities (num_classes,), and how sure that is: the best class
        and its probability; or the labels from their thresholds on as one string (imageset.labels) and the
        probability of the least sure of all decisions."""
        if self.thresholds is None:
            best = int(probabilities.argmax())
            return self.classes[best], float(probabilities[best])
        said = thresholds.apply_thresholds(probabilities, self.thresholds)
        return thresholds.join_labels(self.classes, said), float(
            thresholds.compute_confidence(probabilities, said)
        )


@dataclass(frozen=True)
class Bundle:
    """A network with all it needs; `network` is in evaluation mode and returns logits, `digest` is the SHA-256 of
    the manifest's content, the digest of the weights included; `reference` is what `reference_sample.ImageSample` reads."""

    info: BundleInfo
    network: nn.Module
    digest: str
    reference: bytes | None = None

    @property
    def spec(self) -> DecodeSpec:
        """How picture bytes become an array."""
        return DecodeSpec.from_dict(self.info.decode)

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read and check a bundle.

        Raises:
            UserError: the folder is no bundle, the weights are not those it was saved with, or the network's
                class is not installed here.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = Path(folder)
        info, digest = check_bundle(folder)
        from lightning_modules.networks.factory import make_network

        network = make_network(info.network, len(info.mean), len(info.classes))
        try:
            network.load_state_dict(load(_read_file(folder / WEIGHTS_FILE)))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder / WEIGHTS_FILE}: the weights do not fit {info.network['class_path']}; "
                "was its code changed since? train again with `dvc repro -f train`"
            ) from error
        reference = folder / REFERENCE_FILE
        return cls(info, network.eval(), digest, _read_file(reference) if reference.exists() else None)


def check_bundle(folder: Path) -> tuple[BundleInfo, str]:
    """The words of a bundle and its digest, once all digests are found right. Needs no PyTorch.

    Raises:
        UserError: the folder is no bundle, or not the one that was saved.
    """
    manifest = _read_manifest(folder)
    weights = folder / WEIGHTS_FILE
    if hashlib.sha256(_read_file(weights)).hexdigest() != manifest["weights_sha256"]:
        raise UserError(f"{weights}: these are not the weights that {MANIFEST_FILE} names; get the bundle again")
    _check_reference(folder / REFERENCE_FILE, manifest.get(REFERENCE_DIGEST_KEY))
    words = {name: _to_tuple(value) for name, value in manifest["info"].items()}
    unknown = sorted(words.keys() - {field.name for field in fields(BundleInfo)})
    if unknown:
        raise UserError(
            f"{folder / MANIFEST_FILE}: says {', '.join(unknown)}, which only a later Convoy understands"
        )
    return BundleInfo(**words), hash_manifest(manifest)


def hash_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, without what it says about itself."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_bundle(folder: Path, info: BundleInfo, network: nn.Module, reference: ImageSample | None = None) -> None:
    """Write a bundle into an existing folder; the manifest last."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    weights = save(state)
    write_bytes(folder / WEIGHTS_FILE, weights)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "info": asdict(info),
    }
    if reference is None:
        (folder / REFERENCE_FILE).unlink(missing_ok=True)
    else:
        kept = reference.to_bytes()
        write_bytes(folder / REFERENCE_FILE, kept)
        manifest[REFERENCE_DIGEST_KEY] = hashlib.sha256(kept).hexdigest()
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


def _check_reference(path: Path, named: str | None) -> None:
    there = path.exists()
    if named is None and not there:
        return
    if named is None or hashlib.sha256(_read_file(path)).hexdigest() != named:
        raise UserError(f"{path}: this is not the reference that {MANIFEST_FILE} names; get the bundle again")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; train first with `dvc repro`") from error


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


REFERENCE_FILE = "reference.safetensors"
