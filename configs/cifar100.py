"""CIFAR-100, ResNet-18, settings of the authors' README.

    python main.py --config=configs/cifar100.py --workdir=runs/cifar100

Time: not measured.
Result: not run on the real data, only on mock data of the same features.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config(method: str = "") -> ConfigDict:
    """As CIFAR-10. A comment of the authors' code calls 4 hops best here."""
    config = cifar10.get_config(method)
    config.data.name = "cifar100"
    return config
