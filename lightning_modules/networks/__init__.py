"""Convolutional networks; each takes `(in_channels, num_classes)` as its first arguments and returns logits."""

from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.lenet import LeNet5
from lightning_modules.networks.speednet import SpeedNet
from lightning_modules.networks.timm_nets import TimmNet
from lightning_modules.networks.torchvision_nets import TorchvisionNet

__all__ = ["ConvNet", "LeNet5", "SpeedNet", "TimmNet", "TorchvisionNet"]
