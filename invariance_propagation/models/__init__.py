"""Networks: a ResNet that matches torchvision's, and an encoder that adds a head."""

from invariance_propagation.models.encoder import (
    Encoder,
    Headless,
    Outputs,
    make_encoder,
)
from invariance_propagation.models.resnet import ResNet

__all__ = ["Encoder", "Headless", "Outputs", "ResNet", "make_encoder"]
