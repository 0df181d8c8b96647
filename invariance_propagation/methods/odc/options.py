"""The options of ODC, listed and checked in one place."""

from typing import NamedTuple

from invariance_propagation.errors import UserError
from invariance_propagation.settings import is_auto

IMAGES_A_CLUSTER = 128  # of ImageNet's 1,281,167 images in 10,000 clusters


class Options(NamedTuple):
    """Holds the config's section `method`.

    Attributes:
      num_clusters: K, or 'auto' to derive it from N.
      min_size: a cluster with fewer images is dissolved.
      splits_per_step: how many clusters a step dissolves and fills again, at most.
      bank_momentum: m in [0, 1], the weight of a row's old value.
      centroid_every: steps from one computation of all centroids to the next.
      balance: the power of a cluster's size by which its images weigh less.
      hidden: width of the hidden layer between backbone and embedding.
      dropout: the share of hidden values that dropout sets to 0.
      kmeans_rounds: of the first clustering.
    """

    num_clusters: int | str
    min_size: int
    splits_per_step: int
    bank_momentum: float
    centroid_every: int
    balance: float
    hidden: int
    dropout: float
    kmeans_rounds: int

    def checked(self, num_examples: int) -> "Options":
        """Returns the options with 'auto' resolved for N images.

        Raises:
          UserError: a value out of its range, or one that N images do not allow.
        """
        options = self._replace(
            num_clusters=clusters_for(self.num_clusters, num_examples=num_examples)
        )
        lowest = {"num_clusters": 2, "min_size": 1, "splits_per_step": 1}
        lowest |= {"centroid_every": 1, "hidden": 1, "kmeans_rounds": 1, "balance": 0}
        for name, least in lowest.items():
            value = getattr(options, name)
            if not value >= least:
                raise UserError(f"method.{name}={value}: set it to {least} or above")
        if not 0 <= self.bank_momentum <= 1:
            raise UserError(
                f"method.bank_momentum={self.bank_momentum}: set it from 0 to 1"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"method.dropout={self.dropout}: set it in [0, 1)")
        clusters = options.num_clusters
        most = num_examples // clusters
        if options.min_size > most:
            raise UserError(
                f"method.min_size={options.min_size}, but {clusters} clusters have "
                f"{most} of {num_examples} images each: set method.min_size below "
                f"{most + 1}, or method.num_clusters lower"
            )
        return options


def clusters_for(value: int | str, *, num_examples: int) -> int:
    """Returns K; for 'auto', one cluster for 128 images, and at least 2.

    Raises:
      UserError: `value` is neither a whole number nor 'auto'.
    """
    if is_auto(value, "method.num_clusters"):
        return max(2, num_examples // IMAGES_A_CLUSTER)
    return value
