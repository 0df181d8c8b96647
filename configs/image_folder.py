"""A folder of your own pictures, with or without classes.

    python main.py --config=configs/image_folder.py --workdir=runs/image_folder

with --config.data.folder=DIR. Whether its topmost folders are classes is said by
--config.data.classes=True; --config.data.held_out=0.2 keeps a fifth for kNN.
Time: half an hour for 1,555 emoji at 32 pixels, width 16, views on the host, on 2 busy
cores of an AMD EPYC (2026-11-29).
Result: kNN of the ten categories 60.1 %, untrained 53.7 %, seed 0;
docs/results.md has the command.
"""

from ml_collections import ConfigDict

from configs import default, methods

VALUES = {
    "coke": {
        "method": {"views": "two", "num_clusters": "auto", "dual_rate": 3.0},
        # SGD; LARS is for large batches.
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.06,
            "weight_decay": 1e-4,
            "warmup_epochs": 2,
        },
        # Large views as `augment` says, small ones half as large.
        "views": {
            "first": {"jitter": (), "blur": 0.0},
            "second": {"jitter": (), "blur": 0.0, "solarize": 0.0},
            "small": {"size": 32, "crop_scale": (0.2, 0.5)},
        },
    },
    "invariance_propagation": {
        "optimizer": {"learning_rate": 0.06},
        "method": {
            "background_size": "auto",
            "temperature": 0.1,
            "start_epoch": 20,
            "bank_start": "embeddings",  # from random rows the first neighbours are random
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
    """ResNet-18 at 64 pixels, for a thousand pictures and more."""
    config = default.get_config(method)
    config.data.name = "image_folder"
    # What colour says stays: of emoji it says much. With MoCo v2's jitter and grey, and
    # crops from 20 %, features got worse than an untrained network's.
    config.augment.update(
        size=64, crop_scale=(0.5, 1.0), jitter=(), grayscale=0.0, blur=0.0
    )
    config.encoder.update(depth=18, stem="cifar", norm_group=0)
    config.knn.num_neighbors = "auto"
    config.train.update(batch_size=32, epochs=100, checkpoint_every=200)
    methods.adapt(config, VALUES)
    return config
