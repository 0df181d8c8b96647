"""Writes torchvision.json: names, shapes and a few outputs of torchvision itself.

Run by hand, where torchvision is installed:

    PYTHONPATH=. python tests/reference/record_torchvision.py
"""

import json
from pathlib import Path

import numpy as np

from tests.reference import torchvision_resnet as reference
from tests.reference.fixed import fixed_images, trained_like

RECORD = Path(__file__).parent / "torchvision.json"


def main() -> None:
    import torch
    import torchvision

    record = {
        "about": "torchvision's own ResNets, fc = Identity, with the weights of "
        "trained_like(shapes), on fixed_images(2, 64); features [:, ::step]. Made by "
        "record_torchvision.py.",
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
        },
    }
    for depth, name in ((18, "resnet18"), (50, "resnet50")):
        network = getattr(torchvision.models, name)(weights=None)
        network.fc = torch.nn.Identity()
        shapes = reference.shapes_of(network)
        weights = trained_like(shapes)
        images = fixed_images(2, 64)
        features = reference.run(reference.load(network, weights), images)
        own = reference.load(reference.TorchResNet(depth, "imagenet"), weights)
        assert list(reference.shapes_of(own).items()) == list(shapes.items())
        difference = np.abs(reference.run(own, images) - features).max()
        print(f"{name}: written-out network differs by {difference:.1e}")
        step = features.shape[1] // 16
        record[name] = {
            "shapes": {key: "x".join(map(str, shape)) for key, shape in shapes.items()},
            "step": step,
            "features": features[:, ::step].astype(float).round(6).tolist(),
        }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
