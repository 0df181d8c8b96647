"""What ends a run before its last step, and that all processes end at the same one."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from invariance_propagation import parallel, processes
from invariance_propagation.devices import Runner
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED

LIMIT = 1  # no signal has this number here: a limit that the user has set
ASK_EVERY = 8  # steps


class Stopping:
    """Asked after each step; it answers all processes the same.

    What one process alone knows, a signal or its clock, it tells the others every few
    steps; what they told is read when they are asked next, so that no step waits.
    """

    def __init__(
        self,
        runner: Runner,
        noted: list[signal.Signals],
        *,
        last_step: int | None,
        hours: float | None,
    ):
        self._noted, self._last_step = noted, last_step
        self._deadline = time.monotonic() + 3600 * (hours or math.inf)
        self._runner, self._told = runner, None
        self._exchange = runner.compile(
            lambda known: parallel.pmax(known, AXIS), (SHARDED,), REPLICATED
        )

    def __call__(self, done: int) -> int:
        """0 to go on; to stop after `done` steps, a signal's number or `LIMIT`."""
        if done == self._last_step:
            return LIMIT
        if not processes.several():
            return self._known()
        if done % ASK_EVERY:
            return 0
        told, self._told = self._told, self._tell(self._known())
        return 0 if told is None else int(self._runner.local(told)[0])

    def _known(self) -> int:
        if self._noted:
            return int(self._noted[0])
        return LIMIT if time.monotonic() > self._deadline else 0

    def _tell(self, known: int) -> jax.Array:
        own = self._runner.share(self._runner.num_devices)
        placed = np.full(own.stop - own.start, known, np.int32)
        return self._exchange(self._runner.put_share(placed))


@contextlib.contextmanager
def stop_requests(
    runner: Runner, *, last_step: int | None, hours: float | None
) -> Iterator[Stopping]:
    """Notes the first SIGTERM or SIGINT; a second one acts as it always does.

    Args:
      runner: of the steps.
      last_step: to stop after; None for no such limit.
      hours: from now, to stop after; 0 or None for no such limit.

    Yields:
      What to ask after each step.
    """
    noted: list[signal.Signals] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        noted.append(signal.Signals(number))
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, note)
        yield Stopping(runner, noted, last_step=last_step, hours=hours)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(stop: int) -> str:
    return "train.stop_after_*" if stop == LIMIT else signal.Signals(stop).name


def exit_status(stop: int) -> int:
    """As a shell has it: a limit that was set is no failure."""
    return 0 if stop == LIMIT else 128 + stop
