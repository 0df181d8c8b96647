"""Options of CoKe; the values are ImageNet's with one view.

The authors' code has a script for each kind of views; docs/methods_coke.md lists what
else differs between them. configs/default.py explains the tags.
"""

from ml_collections import ConfigDict, config_dict


def configure(config: ConfigDict) -> None:
    """Sets the options of the section `method`, LARS, and how each kind of view looks."""
    # 'one', 'two', or 'multi_crop': two large views and some small ones.
    config.method.views = "one"
    config.method.num_small = 6  # small views, for 'multi_crop' [code]
    # K of each clustering [code], or 'auto', which follows N.
    config.method.num_clusters = config_dict.FieldReference((3000, 4000, 5000), object)
    # gamma, the smallest size of a cluster as a share of N / K [code].
    config.method.least_size = 0.4
    # eta [code]. A step moves a dual by eta times a share of the batch, so that small
    # batches and few clusters need a smaller one.
    config.method.dual_rate = 20.0
    config.method.temperature = 0.1  # tau [code]; the scripts of more views have 0.05
    config.method.prediction_weight = 1.0  # beta, for 'one' [code]
    # For 'one': the epoch, from 0, from which labels and centroids are averages [code].
    config.method.average_from = 801
    config.method.num_slots = 5  # labels that an image keeps from then on [code]
    config.method.slot_temperature = 0.5  # of their weights [code]
    config.method.hard_weight = 0.2  # alpha, for 'two' and 'multi_crop' [code]
    config.method.large_weight = 0.5  # of the large views, for 'multi_crop' [code]

    config.augment.update(
        crop_scale=(0.08, 1.0),  # [code]
        jitter=(0.8, 0.8, 0.8, 0.2),  # [code]: of one view, and of small ones
    )
    # 'first' and 'second' are the large views; one view alone is as `augment` says.
    jitter = (0.4, 0.4, 0.2, 0.1)
    config.views.first = ConfigDict({"jitter": jitter, "blur": 1.0})  # [code]
    # [code]
    config.views.second = ConfigDict({"jitter": jitter, "blur": 0.1, "solarize": 0.2})
    # [code]
    config.views.small = ConfigDict({"size": 96, "crop_scale": (0.05, 0.6)})

    config.encoder.norm_group = 0  # [code]: SyncBatchNorm, over the whole batch
    config.optimizer.update(
        name="lars",  # [code]
        trust=0.001,  # [code]
        learning_rate=1.6,  # [code]
        momentum=0.9,  # [code]
        weight_decay=1e-6,  # [code]
        still_epochs=1,  # [code]: epoch 0 fills the labels
        warmup_epochs=10,  # [code]: up to epoch 11
    )
    config.train.update(
        epochs=1001,  # [code]; the script of small views has 801
        batch_size=1024,  # [code]
    )
