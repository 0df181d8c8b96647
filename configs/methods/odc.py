"""Options of ODC; the values are ImageNet's of the released code, or follow N.

A data set's config may change them. configs/default.py explains the tags.
"""

from ml_collections import ConfigDict, config_dict


def configure(config: ConfigDict) -> None:
    """Sets the options of the section `method`, and those of its classifier."""
    # K, the number of clusters; 'auto': one for 128 images, as on ImageNet [ours].
    config.method.num_clusters = config_dict.FieldReference("auto", object)
    config.method.min_size = 20  # a cluster with fewer images is dissolved [code]
    # Most clusters that a step dissolves; the released code knows no limit [ours].
    config.method.splits_per_step = 8
    config.method.bank_momentum = 0.5  # weight of a row's old value [code]
    config.method.centroid_every = 10  # steps between new centroids [code]
    # Images of a cluster of n weigh n to the power of minus this in the loss [code].
    config.method.balance = 0.5
    config.method.hidden = 512  # width of the neck's hidden layer [code]
    config.method.dropout = 0.5  # in the neck [code]
    config.method.kmeans_rounds = 20  # of the first clustering [ours]
    # The classifier has no momentum, because its classes change all the time [code].
    config.optimizer.groups = ConfigDict({"classifier": {"momentum": 0.0}})
    config.encoder.dim = 256  # of the embedding [code]
