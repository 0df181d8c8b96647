"""torchvision's ResNet-18 and ResNet-50 in PyTorch, written out by its names.

`tests/reference/torchvision.json` holds what torchvision itself says of them.
"""

import numpy as np

try:
    import torch
except ModuleNotFoundError:
    import pytest

    # A test that imports this module is skipped where PyTorch is not installed.
    pytest.skip("PyTorch is not installed", allow_module_level=True)
nn = torch.nn


class TorchBlock(nn.Module):
    """BasicBlock and Bottleneck of torchvision/models/resnet.py."""

    def __init__(self, inputs: int, width: int, stride: int, depth: int):
        super().__init__()
        # (channels out, kernel size, stride) of each convolution.
        layers = {
            18: ((width, 3, stride), (width, 3, 1)),
            50: ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1)),
        }[depth]
        self.count = len(layers)
        before = inputs
        for n, (outputs, size, step) in enumerate(layers, start=1):
            conv = nn.Conv2d(before, outputs, size, step, size // 2, bias=False)
            setattr(self, f"conv{n}", conv)
            setattr(self, f"bn{n}", nn.BatchNorm2d(outputs))
            before = outputs
        self.downsample = None
        if stride != 1 or inputs != before:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, before, 1, stride, bias=False),
                nn.BatchNorm2d(before),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = torch.relu(y) if n < self.count else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    """The network; `fc` is the identity until something else is put there.

    The stem 'cifar' is what people make of torchvision's for small images: another
    conv1, and no pool.
    """

    def __init__(self, depth: int, stem: str, width: int = 64, channels: int = 3):
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate({18: (2,) * 4, 50: (3, 4, 6, 3)}[depth]):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(TorchBlock(inputs, width * 2**stage, stride, depth))
                inputs = width * 2**stage * (4 if depth == 50 else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(x.shape) for name, x in network.state_dict().items()}


def load(network: nn.Module, weights: dict[str, np.ndarray]) -> nn.Module:
    """The network with these weights, in evaluation mode; names must fit exactly."""
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in weights.items()}
    network.load_state_dict(tensors, strict=True)
    return network.eval()


def run(network: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()
