"""Metrics between two rows of the log."""

from typing import Any

import jax
import numpy as np

from invariance_propagation.errors import TrainingError


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
          TrainingError: one of them is not finite.
        """
        for step, metrics in self._pending:
            for name, value in jax.device_get(metrics).items():
                if not np.isfinite(value):
                    raise TrainingError(
                        f"step {step}: the {name} is {value}; training stops before "
                        "anything of it is saved. Try a smaller "
                        "optimizer.learning_rate or a larger method.temperature"
                    )
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._count += 1
        self._pending.clear()

    def means(self) -> dict[str, float]:
        self.settle()
        return {name: total / self._count for name, total in self._sums.items()}

    def facts(self) -> dict[str, Any]:
        return {"count": self._count, "sums": self._sums}
