"""Options of Online Deep Clustering; the values are ImageNet's.

[code] is configs/selfsup/odc/r50_v1.py of open-mmlab/OpenSelfSup, or what it builds.
configs/default.py explains the other tags.
"""

from ml_collections import ConfigDict, config_dict


def configure(config: ConfigDict) -> None:
    """Sets the options of the section `method`, and what else the method changes."""
    # C, the number of clusters [code], or 'auto': one for 128 images, as on ImageNet.
    config.method.num_clusters = config_dict.FieldReference(10_000, object)
    # A cluster of fewer images is dissolved [code]; 'auto' follows N and C.
    config.method.min_cluster = config_dict.FieldReference(20, object)
    config.method.bank_momentum = 0.5  # weight of a row's old value [code]
    config.method.refresh_every = 10  # steps between recomputing all centroids [code]
    # How many small clusters a step can replace [ours]; the released code replaces all.
    config.method.splits_per_step = 16
    # Images of a cluster of n weigh n to the power of minus this in the loss [code].
    config.method.balance = 0.5
    config.method.kmeans_iterations = (
        20  # of the clustering before the first step [code]
    )
    config.method.split_iterations = 20  # at most, of the 2-means of a split [code]
    config.method.dropout = 0.5  # in the neck [code]
    # Weight of the old running statistics of the neck's BatchNorm [code].
    config.method.norm_momentum = 0.999
    config.encoder.update(
        hidden=512,  # of the neck [code]
        dim=256,  # of the embedding [code]
        norm_group=0,  # BatchNorm over all devices [code]
    )
    config.augment.update(
        crop_scale=(0.08, 1.0),  # [code]
        rotation=2.0,  # degrees [code]
        jitter=(0.4, 0.4, 1.0, 0.5),  # [code]
        jitter_probability=1.0,  # [code]
        grayscale=0.2,  # [code]
        blur=0.0,  # [code]
    )
    config.optimizer.update(
        learning_rate=0.06,  # [code]
        weight_decay=1e-5,  # [code]
        schedule="steps",  # [code]
        milestones=(400,),  # [code]
        decay=0.4,  # [code]
        # The classifier has no momentum [code].
        groups=ConfigDict({"head": {"momentum": 0.0}}),
    )
    config.train.update(epochs=440, batch_size=512)  # [code]
