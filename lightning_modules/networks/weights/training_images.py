"""The images that published weights were trained on: scale, size and crop, which differ between networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_modules.networks.torchvision_nets import WITH_AUXILIARY_CLASSIFIERS

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, in 0..1

IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# torchvision's GoogLeNet and Inception keep the scale -1 to 1 of their original authors.
INCEPTION_STATISTICS: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class TrainingImages:
    """How the images were prepared that a network's weights were trained on.

    Attributes:
        statistics: mean and standard deviation of each channel, in units of 0..1.
        side_px: side of the square images in pixels; None: not known.
        crop: side of the central square that was used, as a fraction of the short side.
    """

    statistics: Statistics = IMAGENET_STATISTICS
    side_px: int | None = None
    crop: float = 1.0


def describe_training_images(network: Mapping[str, Any]) -> TrainingImages:
    """Return how the publishers of a network prepared its images; ImageNet's usual statistics if unknown.

    Args:
        network: {"class_path", "init_args"}.
    """
    kind = network["class_path"].rpartition(".")[2]
    name = str(network["init_args"].get("name", ""))
    if kind == "TimmNet":
        return _describe_for_timm(name)
    if kind == "TorchvisionNet":
        return _describe_for_torchvision(name)
    return TrainingImages()


def _describe_for_timm(name: str) -> TrainingImages:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return TrainingImages()
    return TrainingImages((tuple(config.mean), tuple(config.std)), config.input_size[-1], config.crop_pct)


def _describe_for_torchvision(name: str) -> TrainingImages:
    from torchvision import models

    transforms = models.get_model_weights(name).DEFAULT.transforms()
    statistics = (tuple(transforms.mean), tuple(transforms.std))
    if name in WITH_AUXILIARY_CLASSIFIERS:
        statistics = INCEPTION_STATISTICS
    side_px, short_side_px = transforms.crop_size[0], transforms.resize_size[0]
    return TrainingImages(statistics, side_px, min(1.0, side_px / short_side_px))
