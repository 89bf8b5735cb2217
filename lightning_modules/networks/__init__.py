"""Convolutional networks; each takes `(in_channels, num_classes)` first and returns logits."""

from lightning_modules.networks.by_name import TorchvisionNet
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.lenet import LeNet5
from lightning_modules.networks.speednet import SpeedNet
from lightning_modules.networks.timm_by_name import TimmNet

__all__ = ["ConvNet", "LeNet5", "SpeedNet", "TimmNet", "TorchvisionNet"]
