"""SVHN, ResNet-18, settings of the authors' README.

    python main.py --config=configs/svhn.py --workdir=runs/svhn

Time: not measured.
Result: not run on the real data, only on mock data of the same features.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config(method: str = "") -> ConfigDict:
    """As CIFAR-10, with its mean and standard deviation too, as in the authors' code."""
    config = cifar10.get_config(method)
    config.data.name = "svhn"
    return config
