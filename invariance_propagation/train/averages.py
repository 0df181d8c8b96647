"""Metrics between two rows of the log."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from invariance_propagation.errors import TrainingError


class NotFinite(TrainingError):
    """A step that has made NaN or infinity.

    Attributes:
      step: how many steps came before it.
      values: each number of it that is not finite, by name.
    """

    def __init__(self, step: int, values: Mapping[str, float]):
        self.step, self.values = step, dict(values)
        names, words = ", ".join(values), sorted({str(x) for x in values.values()})
        verb = "is" if len(values) == 1 else "are"
        super().__init__(f"step {step + 1}: {names} {verb} {' or '.join(words)}")


class Window:
    """Metrics since the last row: still on the device, then summed on the host.

    What has been summed goes into a checkpoint, so that rows come out the same
    after a restart in the middle of a window.
    """

    def __init__(self, count: int = 0, sums: dict[str, float] | None = None):
        self._count = count
        self._sums = dict(sums or {})
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self._pending.append((step, metrics))

    def settle(self) -> None:
        """Brings the pending metrics to the host.

        Raises:
          NotFinite: one of them is not finite.
        """
        for step, metrics in self._pending:
            values = {name: float(x) for name, x in jax.device_get(metrics).items()}
            broken = {name: x for name, x in values.items() if not np.isfinite(x)}
            if broken:
                raise NotFinite(step, broken)
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        self._pending.clear()

    def means(self) -> dict[str, float]:
        self.settle()
        return {name: total / self._count for name, total in self._sums.items()}

    def facts(self) -> dict[str, Any]:
        # A copy: what waits to be written must not follow later steps.
        return {"count": self._count, "sums": dict(self._sums)}
