"""The options of the objective, listed and checked in one place."""

from typing import NamedTuple

from invariance_propagation.core.arguments import integer, real
from invariance_propagation.core.losses import FORMS, POSITIVES
from invariance_propagation.core.search import PRECISIONS, SELECTIONS
from invariance_propagation.errors import UserError, check_choice

MOST_REACHED = 2**20  # ids per image; for a batch of 256 they take 1 GB

TEMPERATURES = 1e-30, 1e30  # beyond, float32 makes quotients of 0 or infinity


class LossOptions(NamedTuple):
    """Holds the options of `invp_losses`, whose docstring explains them."""

    num_hops: int
    num_hard: int
    background_size: int
    temperature: float
    form: str
    positives: str
    selection: str
    precision: str

    def checked(self, *, num_examples: int, num_neighbors: int) -> "LossOptions":
        """Returns the options as plain Python numbers.

        Args:
          num_examples: N.
          num_neighbors: k.

        Raises:
          UserError: (a ValueError) an option out of its range, or one that N rules out.
        """
        num_hops = integer("num_hops", self.num_hops)
        num_hard = integer("num_hard", self.num_hard)
        integer("num_neighbors", num_neighbors)
        background_size = integer("background_size", self.background_size)
        if background_size > num_examples:
            raise UserError(
                f"background_size={background_size}, but the bank holds {num_examples} "
                f"images: set it from 1 to {num_examples}"
            )
        if num_examples < 2:
            raise UserError(
                f"num_examples={num_examples}: at least 2 images are needed"
            )
        if num_neighbors + 1 > num_examples:
            raise UserError(
                f"num_neighbors={num_neighbors}, but the bank holds {num_examples} "
                f"images: set it to at most {num_examples - 1}"
            )
        _check_reach(num_hops, num_neighbors)
        temperature = real("temperature", self.temperature)
        check_temperature("temperature", self.temperature)
        check_choice("form", self.form, FORMS)
        check_choice("positives", self.positives, POSITIVES)
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("precision", self.precision, PRECISIONS)
        return self._replace(
            num_hops=num_hops,
            num_hard=num_hard,
            background_size=background_size,
            temperature=temperature,
        )


def check_temperature(name: str, temperature: float) -> None:
    """Raises UserError unless similarities can be divided by it in float32."""
    if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        raise UserError(
            f"{name}={temperature}: set it above 0, e.g. to 0.2 (from "
            f"{TEMPERATURES[0]:g} to {TEMPERATURES[1]:g})"
        )


def _check_reach(num_hops: int, num_neighbors: int) -> None:
    """Raises UserError if a walk of k + k**2 + ... ids would not fit."""
    reached, fits = 0, 0
    while fits < num_hops:
        reached += num_neighbors ** (fits + 1)
        if reached > MOST_REACHED:
            raise UserError(
                f"num_hops={num_hops}: with num_neighbors={num_neighbors}, an image "
                f"would reach more than {MOST_REACHED:,} others: set num_hops to at "
                f"most {max(1, fits)}, or num_neighbors lower"
            )
        fits += 1
