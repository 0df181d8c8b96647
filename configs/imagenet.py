"""ImageNet, ResNet-50, settings of the authors' README.

    python main.py --config=configs/imagenet.py --workdir=runs/imagenet

Time: not run to its end; a rehearsal of 12 steps with a bank of the full size took
14 minutes on 2 busy cores of an AMD EPYC (2026-11-29), see docs/performance.md.
Result: not run. The paper reports 71.3 top-1 (linear, presumably with this head; for
how many epochs is not known).
"""

from ml_collections import ConfigDict

from configs import default, methods

VALUES = {
    "invariance_propagation": {
        "method": {"form": "released"},  # [code], which the published figure is of
    },
    "odc": {
        "augment": {
            "crop_scale": (0.08, 1.0),  # [code]
            "rotation": 2.0,  # [code]
            "flip": 0.5,  # [code]
            "jitter": (0.4, 0.4, 1.0, 0.5),  # [code]
            "jitter_probability": 1.0,  # [code]
            "grayscale": 0.2,  # [code]
            "blur": 0.0,  # [code]
        },
        # Of the backbone [code]; the authors' neck sees the 64 images of one GPU.
        "encoder": {"norm_group": 0},
        "optimizer": {
            "learning_rate": 0.06,  # [code]
            "momentum": 0.9,  # [code]
            "weight_decay": 1e-5,  # [code]
            "schedule": "steps",  # [code]
            "milestones": (400,),  # [code]
            "decay": 0.4,  # [code]
        },
        "train": {"batch_size": 512, "epochs": 440},  # [code]
    },
    # It keeps no rows that kNN could compare with instead.
    "coke": {"knn": {"embed_anew": True}},
}


def get_config(method: str = "") -> ConfigDict:
    """The defaults are ImageNet's; what differs from them is set here."""
    config = default.get_config(method)
    config.data.name = "imagenet"
    # [ours]: only CoKe's authors compute in 16 bits, the others in float32.
    config.encoder.dtype = "bfloat16"
    config.train.update(evaluate_every=5)
    config.train.checkpoint_every = 2000
    # A pass over all training images is a third of an epoch.
    config.knn.embed_anew = False
    methods.adapt(config, VALUES)
    return config
