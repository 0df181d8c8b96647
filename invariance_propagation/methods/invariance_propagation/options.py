"""The options of Invariance Propagation, listed and checked in one place."""

import math
from typing import NamedTuple

from invariance_propagation.core.options import LossOptions
from invariance_propagation.errors import UserError, check_choice
from invariance_propagation.methods.invariance_propagation.readiness import (
    check_threshold,
    threshold_of,
)
from invariance_propagation.settings import is_auto

MOST_BACKGROUND = 4096  # the paper's M
BANK_STARTS = ("uniform", "embeddings")
RAMPS = ("binary", "gaussian")
STARTS = ("epoch", "auto")
GRAPHS = ("replicated", "sharded")


class Options(NamedTuple):
    """Holds the config's section `method`, with the paper's symbols.

    Attributes:
      num_neighbors: k, neighbours kept per image.
      num_hops: l, hops of the walk along the graph.
      num_hard: P, positives that the propagation loss uses.
      background_size: M, or 'auto' to derive it from N.
      temperature: tau.
      form: 'paper' or 'released'; see `core.losses`.
      positives: 'hard' for the least similar, 'easy' for the most similar.
      selection: how the background is searched; see `core.search.Search`.
      precision: of the products with the bank; see `core.search.Search`.
      propagation_weight: lambda; 0 leaves instance discrimination.
      start: 'epoch' [paper] or 'auto', as soon as the graph is stable; see `readiness`.
      start_epoch: T, the first epoch (from 0) with the propagation loss; for 'epoch'.
      start_overlap: share of neighbours that must be kept between visits, beyond what
        random neighbours would keep; for 'auto'.
      ramp: 'binary', or 'gaussian' to grow up to T; see `schedule.ramp_up`.
      bank_momentum: m in [0, 1], the weight of a row's old value.
      bank_start: 'uniform' [released], or 'embeddings' for one forward pass.
      graph: 'replicated', the whole graph on every device, or 'sharded' as the bank is.
    """

    num_neighbors: int
    num_hops: int
    num_hard: int
    background_size: int | str
    temperature: float
    form: str
    positives: str
    selection: str
    precision: str
    propagation_weight: float
    start: str
    start_epoch: int
    start_overlap: float
    ramp: str
    bank_momentum: float
    bank_start: str
    graph: str = "replicated"

    @property
    def starts_by_itself(self) -> bool:
        """Returns whether the propagation loss waits for a stable graph."""
        return self.start == "auto" and self.propagation_weight > 0

    @property
    def shards_graph(self) -> bool:
        """Returns whether each device has only its rows of the graph."""
        return self.graph == "sharded"

    @property
    def losses(self) -> LossOptions:
        """Returns the options of `invp_losses`, which have the same names there."""
        return LossOptions(*(getattr(self, name) for name in LossOptions._fields))

    def threshold(self, num_examples: int) -> float:
        """Returns the share of kept neighbours at which 'auto' starts; see `readiness`."""
        return threshold_of(
            self.start_overlap,
            num_examples=num_examples,
            num_neighbors=self.num_neighbors,
        )

    def checked(self, num_examples: int) -> "Options":
        """Returns the options with 'auto' resolved for N images.

        Raises:
          UserError: a value out of its range, or one that N images do not allow.
        """
        size = background_size_for(self.background_size, num_examples=num_examples)
        options = self._replace(background_size=size)
        try:
            options.losses.checked(
                num_examples=num_examples, num_neighbors=self.num_neighbors
            )
        except UserError as error:  # its keys have no section
            raise UserError(f"method.{error}") from error
        if not 0 <= self.bank_momentum <= 1:
            raise UserError(
                f"method.bank_momentum={self.bank_momentum}: set it from 0 to 1"
            )
        check_choice("method.bank_start", self.bank_start, BANK_STARTS)
        for name in ("propagation_weight", "start_epoch"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"method.{name}={value}: set it to 0 or above")
        check_choice("method.graph", self.graph, GRAPHS)
        check_choice("method.ramp", self.ramp, RAMPS)
        check_choice("method.start", self.start, STARTS)
        if self.start == "auto" and self.ramp != "binary":
            raise UserError(
                f"method.ramp={self.ramp!r} leads up to method.start_epoch: set "
                "method.start='epoch'"
            )
        check_threshold(self.start_overlap)
        if self.starts_by_itself:
            self.threshold(num_examples)  # raises if N is too small to tell
        return options


def background_size_for(value: int | str, *, num_examples: int) -> int:
    """Returns M; for 'auto', the largest power of two up to N / 2, at most 4096.

    Raises:
      UserError: `value` is neither a whole number nor 'auto'.
    """
    if is_auto(value, "method.background_size"):
        return min(MOST_BACKGROUND, 1 << max(0, (num_examples // 2).bit_length() - 1))
    return value
