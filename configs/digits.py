"""scikit-learn's 1,797 digits, 8x8 grey: the demo, no download.

    python main.py --config=configs/digits.py --workdir=runs/digits

Time: a minute and a half with an installed environment, on 2 cores of an AMD EPYC.
Result: kNN of the held-out digits 98.60 +- 0.36 % over ten seeds (98.36 +- 0.59 % with
Python 3.13 and jax 0.12), 98.00 % with seed 0; raw pixels 96.67 % (2026-11-29).
docs/results.md says how the settings were chosen.
"""

from ml_collections import ConfigDict

from configs import default, methods

VALUES = {
    "coke": {
        "method": {
            "views": "two",
            "num_clusters": "auto",
            "dual_rate": 3.0,
        },
        # SGD; LARS is for large batches.
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "warmup_epochs": 2,
        },
        "train": {"batch_size": 64},
        # All views as `augment` says; small ones are smaller.
        "views": {
            "first": {"jitter": (0.4, 0.4, 0.0, 0.0), "blur": 0.0},
            "second": {"jitter": (0.4, 0.4, 0.0, 0.0), "blur": 0.0, "solarize": 0.0},
            "small": {"size": 6, "crop_scale": (0.3, 0.6)},
        },
    },
    "invariance_propagation": {
        "optimizer": {"learning_rate": 0.2, "weight_decay": 5e-4, "warmup_epochs": 10},
        "method": {
            "background_size": 512,
            "temperature": 0.3,
            "num_hard": 20,
            "propagation_weight": 2.0,
            "start_epoch": 30,
        },
    },
    "odc": {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4},
        "encoder": {"dim": 64},
        "method": {
            "num_clusters": 30,
            "min_cluster": 10,
            # An image is seen once an epoch, so half a feature would be noise for long.
            "dropout": 0.0,
            "norm_momentum": 0.9,
        },
    },
}


def get_config(method: str = "") -> ConfigDict:
    """Small network, small bank, BatchNorm over the whole batch."""
    config = default.get_config(method)
    config.data.name = "digits"
    config.augment.update(
        size=8,
        crop_scale=(0.6, 1.0),
        rotation=15.0,  # as hands do
        shear=0.3,
        stretch=0.2,
        flip=0.0,  # a mirrored digit is no digit
        jitter=(0.4, 0.4, 0.0, 0.0),
        grayscale=0.0,
        blur=0.0,
        mean=(0.306,),
        std=(0.377,),
    )
    config.encoder.update(depth=18, stem="cifar", width=16, hidden=256, norm_group=0)
    config.knn.num_neighbors = 10
    config.train.update(epochs=100, evaluate_every=20, checkpoint_every=200)
    methods.adapt(config, VALUES)
    return config
