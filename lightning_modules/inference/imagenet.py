"""The installed network with ImageNet's 1,000 classes as a bundle, which predicts before anything was trained.

The images are prepared as they were for the published accuracy: short side to 256 px, central 224 px.

Source of the classes' order and names: timm.data.ImageNetInfo, which is installed with timm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from imageset.decoding.spec import DecodeSpec
from lightning_modules.bundle import FORMAT, Bundle, BundleInfo, hash_manifest
from lightning_modules.networks.weights.installed import INSTALLED_NETWORK, SHA256, read_installed_weights
from lightning_modules.networks.weights.training_images import TrainingImages, describe_training_images

IMAGENET = "imagenet"  # the model's name; it never has a dataset, a run or a temperature
NETWORK: Mapping[str, Any] = {
    "class_path": "lightning_modules.networks.TimmNet",
    "init_args": {"name": INSTALLED_NETWORK, "stem": "standard"},
}
INTERPOLATION = "bicubic"  # in timm's configuration of the network
MAX_PIXELS = 178_956_970  # Pillow's own limit


def make_imagenet_bundle() -> Bundle:
    """Return the bundle of the installed network. It is made in memory: its weights are on this machine already.

    Its probabilities are the plain softmax (temperature 1), and it always predicts a label.

    Raises:
        UserError: the weights are not installed, or damaged.
    """
    from lightning_modules.networks.factory import make_network

    classes = list_imagenet_classes()
    images = describe_training_images(NETWORK)
    mean, std = images.statistics
    network = make_network(NETWORK, len(mean), len(classes))
    network.load_state_dict({f"network.{name}": value for name, value in read_installed_weights().items()})
    info = BundleInfo(
        network=dict(NETWORK),
        classes=classes,
        decode=make_decode_spec(images).to_dict(),
        mean=mean,
        std=std,
        dataset={"name": IMAGENET},
        metrics={},
    )
    manifest = {"format": FORMAT, "weights_sha256": SHA256, "info": asdict(info)}
    return Bundle(info, network.eval(), hash_manifest(manifest))


def make_decode_spec(images: TrainingImages) -> DecodeSpec:
    """Return the decode parameters that prepare images as the network's training images were."""
    assert images.side_px is not None
    return DecodeSpec(images.side_px, 3, "crop", INTERPOLATION, MAX_PIXELS, crop_fraction=images.crop)


def list_imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 names in the order of the logits: each class's first name, e.g. "tench".

    Two classes are called "crane" and two "maillot": the synset follows in brackets, as in ImageNet's layouts.
    """
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo()
    names = [text.split(",")[0].strip() for text in synsets.label_descriptions()]
    counts = Counter(names)
    return tuple(
        f"{name} ({synset})" if counts[name] > 1 else name
        for name, synset in zip(names, synsets.label_names(), strict=True)
    )


def compute_version_number() -> int:
    """Return the version of the model: the first 8 hexadecimal digits of its weights' SHA-256, as a number."""
    return int(SHA256[:8], 16)
