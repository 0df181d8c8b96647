"""Averages metrics, and times steps, between two rows of the log."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from invariance_propagation.errors import TrainingError


class NotFinite(TrainingError):
    """Reports a step that has made NaN or infinity.

    Attributes:
      step: the number of steps before it.
      values: the numbers that are not finite, by name.
    """

    def __init__(self, step: int, values: Mapping[str, float]):
        self.step, self.values = step, dict(values)
        names, words = ", ".join(values), sorted({str(x) for x in values.values()})
        verb = "is" if len(values) == 1 else "are"
        super().__init__(f"step {step + 1}: {names} {verb} {' or '.join(words)}")


class Window:
    """Collects metrics since the last row: first on the device, then summed on the host.

    Checkpoints keep the sums, so that rows come out the same after a restart in the
    middle of a window.
    """

    def __init__(self, count: int = 0, sums: dict[str, float] | None = None):
        self._count = count
        self._sums = dict(sums or {})
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes the metrics of a step; does not wait for the device."""
        self._pending.append((step, metrics))

    def settle(self) -> None:
        """Waits for the pending metrics and adds them up.

        Raises:
          NotFinite: a metric is not finite.
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
        """Returns the mean of each metric; raises as `settle` does."""
        self.settle()
        return {name: total / self._count for name, total in self._sums.items()}

    def facts(self) -> dict[str, Any]:
        """Returns the arguments that make this window again, as JSON."""
        # A copy, because later steps must not change what waits to be written.
        return {"count": self._count, "sums": dict(self._sums)}


class Clock:
    """Times the steps since the last row.

    Attributes:
      done: the number of steps taken when it was started.
    """

    def __init__(self, done: int):
        self.restart(done)

    def restart(self, done: int) -> None:
        """Starts to count after `done` steps."""
        self.done = done
        self._since, self._waited = time.monotonic(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts a block as time that training waits for its images."""
        asked = time.monotonic()
        yield
        self._waited += time.monotonic() - asked

    def figures(self, done: int, *, total: int, batch_size: int) -> dict[str, float]:
        """Returns speed, share of the time spent waiting, and a forecast in seconds.

        Args:
          done: the number of steps taken, which are complete on the devices.
          total: steps of the whole run.
          batch_size: images per step.
        """
        seconds = time.monotonic() - self._since
        rate = (done - self.done) / seconds
        return {
            "images_per_second": rate * batch_size,
            "waiting_for_data": self._waited / seconds,
            "seconds_left": (total - done) / rate,
        }
