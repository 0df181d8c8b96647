"""A folder of your own pictures, nested or flat, with or without classes.

    python main.py --config=configs/image_folder.py --workdir=runs/image_folder

with --config.data.folder=DIR. Whether its topmost folders are classes is said by
--config.data.classes=True; --config.data.held_out=0.2 keeps a fifth for kNN.
Time: about 10 minutes for 1,555 emoji at 32 pixels, width 16, views on the host, on 2
cores of an AMD EPYC (2026-11-25).
Result: kNN of the ten categories 61.0 %, untrained 52.3 %, seed 0;
docs/results.md has the command.
"""

from ml_collections import ConfigDict

from configs import default, methods

VALUES = {
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
        "encoder": {"hidden": 512, "dim": 128},
        "augment": {"rotation": 0.0},
        "optimizer": {
            "learning_rate": 0.03,
            "weight_decay": 1e-4,
            "schedule": "cosine",
        },
        "method": {
            "num_clusters": "auto",
            "min_cluster": "auto",
            "norm_momentum": 0.99,
        },
    },
}


def get_config(method: str = "") -> ConfigDict:
    """ResNet-18 at 64 pixels, for a thousand pictures and more."""
    config = default.get_config(method)
    config.data.name = "image_folder"
    # What colour says stays: of emoji it says much. With MoCo v2's jitter and gray, and
    # crops from 20 %, features got worse than an untrained network's.
    config.augment.update(
        size=64, crop_scale=(0.5, 1.0), jitter=(), grayscale=0.0, blur=0.0
    )
    config.encoder.update(depth=18, stem="cifar", norm_group=0)
    methods.adapt(config, VALUES)
    config.knn.num_neighbors = "auto"
    config.train.update(batch_size=32, epochs=100, checkpoint_every=200)
    return config
