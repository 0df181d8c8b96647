"""The options of Un-Mix."""

from typing import NamedTuple

from invariance_propagation.errors import UserError


class Options(NamedTuple):
    """Holds the options of the mixture.

    Attributes:
      global_probability: of a global mixture; otherwise a region is pasted.
      alpha: of Beta(alpha, alpha), which lambda is drawn from; above 0.
    """

    global_probability: float
    alpha: float

    def checked(self) -> "Options":
        """Returns the options; raises UserError for a value out of its range."""
        if not 0 <= self.global_probability <= 1:
            raise UserError(
                f"method.global_probability={self.global_probability}: set it from 0 to 1"
            )
        if not self.alpha > 0:
            raise UserError(f"method.alpha={self.alpha}: set it above 0, e.g. to 1.0")
        return self
