"""The options of Online Deep Clustering, checked in one place."""

from typing import NamedTuple

from invariance_propagation.errors import UserError
from invariance_propagation.methods.base import Problem
from invariance_propagation.settings import is_auto

# What 'auto' takes over from ImageNet: 1,281,167 images in 10,000 clusters, and a cluster
# is small below 20 images.
IMAGES_PER_CLUSTER = 128
SMALL = 20 / IMAGES_PER_CLUSTER


class Options(NamedTuple):
    """Holds the options of the method, named as in the config's section `method`.

    Attributes:
      num_clusters: C, or 'auto'.
      min_cluster: a cluster with fewer images is dissolved; 'auto' follows N / C.
      bank_momentum: m in [0, 1], the weight of a row's old value.
      refresh_every: steps between recomputing all centroids.
      splits_per_step: how many small clusters a step can replace.
      balance: power of the size of a cluster by which its images weigh less.
      kmeans_iterations: of the clustering before the first step.
      split_iterations: of the 2-means that splits a cluster.
      dropout: rate in the neck.
      norm_momentum: weight of the old running statistics of the neck's BatchNorm.
    """

    num_clusters: int | str
    min_cluster: int | str
    bank_momentum: float
    refresh_every: int
    splits_per_step: int
    balance: float
    kmeans_iterations: int
    split_iterations: int
    dropout: float
    norm_momentum: float

    def checked(self, problem: Problem) -> "Options":
        """Returns the options with 'auto' resolved.

        The number of clusters follows the images that the run began with, so that it
        stays when a run continues with others.

        Raises:
          UserError: a value out of its range, or one that N images do not allow.
        """
        began_with = problem.steps_per_epoch * problem.batch_size
        clusters, small = self.num_clusters, self.min_cluster
        if is_auto(clusters, "method.num_clusters"):
            clusters = max(2, began_with // IMAGES_PER_CLUSTER)
        if is_auto(small, "method.min_cluster"):
            small = max(1, round(SMALL * began_with / clusters))
        options = self._replace(num_clusters=clusters, min_cluster=small)
        for name, least in LEAST.items():
            value = getattr(options, name)
            if value < least:
                raise UserError(f"method.{name}={value}: set it to {least} or above")
        for name in ("bank_momentum", "norm_momentum"):
            value = getattr(options, name)
            if not 0 <= value <= 1:
                raise UserError(f"method.{name}={value}: set it from 0 to 1")
        if not 0 <= options.dropout < 1:
            raise UserError(f"method.dropout={options.dropout}: set it in [0, 1)")
        if options.fewest_examples > problem.num_examples:
            raise UserError(
                f"method.num_clusters={clusters} of at least method.min_cluster={small} "
                f"images need {options.fewest_examples:,} images, twice as many, but "
                f"there are {problem.num_examples:,}: lower one of them"
            )
        return options

    @property
    def fewest_examples(self) -> int:
        """The fewest images with which splitting in halves makes no new small cluster."""
        return 2 * self.num_clusters * self.min_cluster


LEAST = {
    "num_clusters": 2,
    "min_cluster": 1,
    "refresh_every": 1,
    "splits_per_step": 1,
    "balance": 0,
    "kmeans_iterations": 0,
    "split_iterations": 0,
}
