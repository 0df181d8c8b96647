"""Networks: a torchvision-exact ResNet, and an encoder that puts a head on it."""

from invariance_propagation.models.encoder import (
    Encoder,
    Headless,
    Outputs,
    make_encoder,
)
from invariance_propagation.models.resnet import ResNet

__all__ = ["Encoder", "Headless", "Outputs", "ResNet", "make_encoder"]
