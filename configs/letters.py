"""18,200 capital letters in 700 fonts, 28x28 grey; other families of fonts are held out.

    python benchmarks/letters.py runs/letters_data
    python main.py --config=configs/letters.py --workdir=runs/letters

Time: not measured.
Result: not measured.
"""

from ml_collections import ConfigDict

from configs import default, methods

VALUES = {
    "coke": {
        "method": {"views": "two", "num_clusters": "auto", "dual_rate": 3.0},
        # SGD; LARS is for large batches.
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "warmup_epochs": 2,
        },
        "train": {"batch_size": 128},
        # Large views as `augment` says, small ones half as large.
        "views": {
            "first": {"jitter": (0.4, 0.4, 0.0, 0.0), "blur": 0.0},
            "second": {"jitter": (0.4, 0.4, 0.0, 0.0), "blur": 0.0, "solarize": 0.0},
            "small": {"size": 14, "crop_scale": (0.2, 0.5)},
        },
    },
    "invariance_propagation": {
        "optimizer": {"learning_rate": 0.03, "weight_decay": 1e-4},
        "method": {
            "background_size": 1024,
            "temperature": 0.1,
            "propagation_weight": 2.0,
            "start_epoch": 20,
            "bank_start": "embeddings",
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
    """All letters; for a CPU add --config.data.num_train=10000."""
    config = default.get_config(method)
    config.data.name = "letters"
    config.augment.update(
        size=28,
        crop_scale=(0.5, 1.0),
        flip=0.0,  # a mirrored letter is no letter
        jitter=(0.4, 0.4, 0.0, 0.0),
        grayscale=0.0,
        blur=0.0,
        mean=(0.177,),
        std=(0.350,),
    )
    config.encoder.update(depth=18, stem="cifar", width=16, hidden=512, norm_group=0)
    methods.adapt(config, VALUES)
    config.knn.num_neighbors = 20
    config.train.update(epochs=60, checkpoint_every=500)
    return config
