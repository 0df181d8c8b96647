"""The options of CoKe, listed and checked in one place."""

from collections.abc import Sequence
from typing import NamedTuple

from invariance_propagation.errors import UserError, check_choice
from invariance_propagation.methods.coke.clustering import Duals
from invariance_propagation.settings import AUTO

VIEWS = ("one", "two", "multi_crop")
IMAGES_PER_CLUSTER = 15  # of the first clustering, for 'auto' [ours]
MOST_CLUSTERS = (3000, 4000, 5000)  # the authors'


class Options(NamedTuple):
    """Holds the config's section `method`, with the paper's symbols.

    Attributes:
      views: 'one', 'two', or 'multi_crop' for two large and some small ones.
      num_small: how many small ones; for 'multi_crop'.
      num_clusters: K of each clustering, or 'auto' to derive them from N.
      least_size: gamma, the smallest size of a cluster as a share of N / K.
      dual_rate: eta.
      temperature: tau.
      prediction_weight: beta, for 'one'.
      average_from: the epoch, from 0, in which the second stage of 'one' begins; see
        `averages`. With as many epochs or fewer a run never gets there.
      num_slots: labels that an image keeps in the second stage.
      slot_temperature: of the weights of these labels.
      hard_weight: alpha, the weight of hard labels with two views or more.
      large_weight: of the two large views; for 'multi_crop'.
    """

    views: str
    num_small: int
    num_clusters: Sequence[int] | int | str
    least_size: float
    dual_rate: float
    temperature: float
    prediction_weight: float
    average_from: int
    num_slots: int
    slot_temperature: float
    hard_weight: float
    large_weight: float

    @property
    def duals(self) -> Duals:
        """Returns the options of the dual step."""
        return Duals(self.dual_rate, self.least_size)

    @property
    def groups(self) -> dict[str, int]:
        """Returns how many views of each kind there are; 0 for a kind that is not used."""
        two = self.views != "one"
        small = self.num_small if self.views == "multi_crop" else 0
        return {"view": int(not two), "first": two, "second": two, "small": small}

    def checked(self, num_examples: int) -> "Options":
        """Returns the options with 'auto' resolved for N images.

        Raises:
          UserError: a value out of its range, or one that N images do not allow.
        """
        check_choice("method.views", self.views, VIEWS)
        sizes = clusters_for(self.num_clusters, num_examples=num_examples)
        for name in ("least_size", "prediction_weight", "hard_weight", "large_weight"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"method.{name}={value}: set it from 0 to 1")
        for name in ("dual_rate", "temperature", "slot_temperature"):
            value = getattr(self, name)
            if not value > 0:
                raise UserError(f"method.{name}={value}: set it above 0")
        for name, lowest in (("num_small", 1), ("average_from", 1), ("num_slots", 2)):
            value = getattr(self, name)
            if value < lowest:
                raise UserError(f"method.{name}={value}: set it to {lowest} or above")
        return self._replace(num_clusters=sizes)


def clusters_for(
    value: Sequence[int] | int | str, *, num_examples: int
) -> tuple[int, ...]:
    """Returns K of each clustering; a number alone is one clustering.

    'auto' has three, in the proportion of the authors' 3,000, 4,000 and 5,000, and
    never more than these.

    Raises:
      UserError: no whole numbers from 2 to N.
    """
    if value == AUTO:
        first = min(MOST_CLUSTERS[0], max(6, num_examples // IMAGES_PER_CLUSTER))
        value = tuple(first * most // MOST_CLUSTERS[0] for most in MOST_CLUSTERS)
    sizes = (value,) if isinstance(value, int | str) else tuple(value)
    if not sizes or not all(isinstance(size, int) for size in sizes):
        raise UserError(
            f"method.num_clusters={value!r}: set it to one whole number for each "
            "clustering, such as (300, 400, 500), or to 'auto'"
        )
    if not all(2 <= size <= num_examples for size in sizes):
        raise UserError(
            f"method.num_clusters={sizes}: set each from 2 to {num_examples}, the "
            "number of training images"
        )
    return sizes
