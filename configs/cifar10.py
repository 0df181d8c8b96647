"""CIFAR-10, ResNet-18, settings of the authors' README.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10

Time: not measured.
Result: not run on the real data, only on mock data of the same features.
"""

from ml_collections import ConfigDict

from configs import default, methods

VALUES = {
    "coke": {
        "method": {"views": "two", "num_clusters": "auto", "dual_rate": 3.0},
        "encoder": {"norm_group": 0},  # [code]
        # SGD; LARS is for large batches.
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "warmup_epochs": 2,
        },
        # Large views as `augment` says, small ones half as large.
        "views": {
            "first": {"jitter": (0.4, 0.4, 0.4, 0.4), "blur": 0.0},
            "second": {"jitter": (0.4, 0.4, 0.4, 0.4), "blur": 0.0, "solarize": 0.0},
            "small": {"size": 16, "crop_scale": (0.1, 0.4)},
        },
    },
    "invariance_propagation": {
        "optimizer": {"weight_decay": 5e-4},  # [code]
        "method": {
            "form": "released",  # [code]
            "num_hard": 20,  # [code]; the paper's single setting has 50
            "temperature": 0.2,  # [code]
        },
    },
    "odc": {
        # As on the digits; not searched.
        "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4},
        "encoder": {"dim": 128},
        "method": {"num_clusters": "auto", "dropout": 0.0, "norm_momentum": 0.9},
    },
}


def get_config(method: str = "") -> ConfigDict:
    """Also the start of `cifar100` and `svhn`, which share all but the data."""
    config = default.get_config(method)
    config.data.name = "cifar10"
    config.augment.update(
        size=32,
        crop_scale=(0.2, 1.0),  # [code]
        flip=0.0,  # [code]: none on CIFAR and SVHN
        jitter=(0.4, 0.4, 0.4, 0.4),  # [code]: more hue than on ImageNet
        jitter_probability=1.0,  # [code]: always on CIFAR and SVHN
        grayscale=0.2,  # [code]
        blur=0.0,  # [code]: the flag has no effect here
        mean=(0.4914, 0.4822, 0.4465),  # [code]
        std=(0.2023, 0.1994, 0.2010),  # [code]
    )
    config.encoder.update(
        depth=18,  # [code]
        stem="cifar",  # [code]
        hidden=512,  # [code]
        norm_group=32,  # [code]: of 128 images on 4 GPUs
    )
    config.train.update(batch_size=128, epochs=800)  # [code]
    methods.adapt(config, VALUES)
    return config
