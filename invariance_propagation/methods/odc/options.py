"""The options of Online Deep Clustering, checked in one place, and its memory."""

from typing import Any, NamedTuple

from invariance_propagation.core.arguments import integer, real
from invariance_propagation.errors import UserError
from invariance_propagation.settings import is_auto

IMAGES_PER_CLUSTER = 128  # for 'auto': ImageNet's images by 10,000 clusters


class Clusters(NamedTuple):
    """Holds the C clusters of N images; the same on every device.

    Attributes:
      labels: int32 [N], the cluster of each image.
      centroids: float32 [C, d], means of features, not of unit length.
      sizes: int32 [C], how many images each cluster has.
    """

    labels: Any
    centroids: Any
    sizes: Any


class Memory(NamedTuple):
    """Holds what the method remembers about the N training images.

    Attributes:
      bank: float32 [N, d], one feature per image, of unit length; sharded.
      clusters: of these features. With the paper's words, `bank` and `clusters.labels` are
        the samples memory, `clusters.centroids` are the centroids memory.
    """

    bank: Any
    clusters: Clusters


class Options(NamedTuple):
    """Holds the config's section `method`.

    Attributes:
      num_clusters: C, or 'auto' to derive it from the images that the run began with.
      bank_momentum: m in [0, 1], the weight of a row's old value.
      min_cluster: clusters of fewer images are dissolved.
      splits_per_step: how many of them, at most, are dissolved in a step.
      refresh_every: steps between two computations of all centroids.
      weight_power: how strongly small clusters weigh more in the loss; 0 for not at all.
      kmeans_iterations: of the first clustering.
      split_iterations: of 2-means, when a cluster is split.
      dropout: probability that a hidden value of the neck becomes 0.
      norm_momentum: weight of the old running statistics of the neck's BatchNorm.
    """

    num_clusters: int | str
    bank_momentum: float
    min_cluster: int
    splits_per_step: int
    refresh_every: int
    weight_power: float
    kmeans_iterations: int
    split_iterations: int
    dropout: float
    norm_momentum: float

    def checked(self, num_examples: int, *, began_with: int) -> "Options":
        """Returns the options with 'auto' resolved.

        Args:
          num_examples: N.
          began_with: about how many images the run began with. 'auto' follows them, so
            that a run that continues with other images has as many clusters as before.

        Raises:
          UserError: a value out of its range, or one that N images do not allow.
        """
        least = {name: 1 for name in _COUNTS} | {"splits_per_step": 0}
        for name, lowest in least.items():
            integer(f"method.{name}", getattr(self, name), least=lowest)
        for name, highest in _SHARES.items():
            value = getattr(self, name)
            if not 0 <= real(f"method.{name}", value) <= highest:
                raise UserError(f"method.{name}={value}: set it from 0 to {highest}")
        if self.dropout == 1:
            raise UserError("method.dropout=1 drops everything: set it below 1")
        if real("method.weight_power", self.weight_power) < 0:
            raise UserError(
                f"method.weight_power={self.weight_power}: set it to 0 or above"
            )
        # An average cluster has two halves that are not small. With fewer images, a split
        # leaves a small cluster again, and no step would be without one.
        most = num_examples // (2 * self.min_cluster)
        if most < 2:
            raise UserError(
                f"method.min_cluster={self.min_cluster}, but there are {num_examples} "
                f"images, too few for two clusters: set it to at most {num_examples // 4}"
            )
        count = self.num_clusters
        if is_auto(count, "method.num_clusters"):
            room = max(2, began_with // (2 * self.min_cluster))
            count = min(max(2, began_with // IMAGES_PER_CLUSTER), room)
        if not 2 <= count <= most:
            raise UserError(
                f"method.num_clusters={count}: with {num_examples} images and "
                f"method.min_cluster={self.min_cluster}, set it from 2 to {most}"
            )
        return self._replace(num_clusters=count)


_COUNTS = ("min_cluster", "refresh_every", "kmeans_iterations", "split_iterations")
_SHARES = {"bank_momentum": 1, "dropout": 1, "norm_momentum": 1}
