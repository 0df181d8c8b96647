"""Options of Online Deep Clustering; the values are ImageNet's.

A data set's config may change them. configs/default.py explains the tags.
"""

from ml_collections import ConfigDict, config_dict


def configure(config: ConfigDict) -> None:
    """Sets the section `method`, the sizes of the neck, and the classifier's momentum."""
    # The number of clusters [code], or 'auto' for one per 128 images, as on ImageNet.
    config.method.num_clusters = config_dict.FieldReference(10000, object)
    config.method.bank_momentum = 0.5  # weight of a row's old value [code]
    config.method.min_cluster = 20  # smaller clusters are dissolved [code]
    # How many small clusters a step dissolves at most; others wait [ours]. The authors'
    # code treats all of them at once, on the host.
    config.method.splits_per_step = 4
    # Steps between two computations of all centroids [code].
    config.method.refresh_every = 10
    # The weight of a cluster in the loss is its size to the power of minus this [code].
    config.method.weight_power = 0.5
    config.method.kmeans_iterations = 20  # of the first clustering [code]
    config.method.split_iterations = 20  # of 2-means, when a cluster is split [code]
    config.method.dropout = 0.5  # in the neck [code]
    # Weight of the old running statistics of the neck's BatchNorm [code].
    config.method.norm_momentum = 0.999
    config.encoder.update(
        hidden=512,  # of the neck [code]
        dim=256,  # of the features in the bank [code]
    )
    # The classifier has no momentum, so that it follows changes of clusters [code].
    config.optimizer.update(groups=ConfigDict({"head": {"momentum": 0.0}}))
