"""What ends a run before its last step, and that all processes end at the same one."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from invariance_propagation import parallel, signals
from invariance_propagation.devices import processes
from invariance_propagation.devices.runner import Runner
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED

Result = TypeVar("Result")

LIMIT = 128  # above the number of each signal: a limit that the user has set
ASK_EVERY = 8  # steps at most between two exchanges
ASK_WITHIN = 2.0  # seconds, where steps are slower than that


class _AskedToStop(BaseException):
    """Leaves work that a stop need not wait for."""


class Stopping:
    """Asked after each step; it answers all processes the same.

    What one process alone knows, a signal or its clock, it tells the others every few
    steps; what they told is read when they are asked next, so that no step waits.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        start: int,
        last_step: int | None,
        hours: float | None,
        on_disk: Callable[[], int],
        describe: Callable[[str, int, int], str],
    ):
        """Prepares to be asked.

        Args:
          runner: of the steps.
          start: steps that a checkpoint on disk holds.
          last_step: to stop after; None for no such limit.
          hours: from now, to stop after; 0 or None for no such limit.
          on_disk: returns the step of the last checkpoint that is on disk.
          describe: (what stopped the run, step on disk, steps that are lost) -> what to
            tell people.
        """
        self._start = self._done = start
        self._last_step = last_step
        self._deadline = time.monotonic() + 3600 * (hours or math.inf)
        self._on_disk, self._describe = on_disk, describe
        self._noted: list[signal.Signals] = []
        self._can_leave = False
        self._runner, self._told = runner, None
        self._next, self._asked_at, self._asked_time = start, start, None
        self._exchange = runner.compile(
            lambda known: parallel.pmax(known, AXIS), (SHARDED,), REPLICATED
        )

    def __call__(self, done: int) -> int:
        """0 to go on; to stop after `done` steps, a signal's number or `LIMIT`."""
        self._done = done
        if done == self._last_step:
            return LIMIT
        if not processes.several():
            return self._known()
        if done < self._next:
            return 0
        told, self._told = self._told, self._tell(self._known())
        known, milliseconds = (0, 0) if told is None else self._runner.local(told)[0]
        # All have read the same figures, so all ask after the same step.
        fast = int(1000 * ASK_WITHIN / milliseconds) if milliseconds else 1
        self._next = done + min(ASK_EVERY, max(1, fast))
        return int(known)

    def unless_asked(self, work: Callable[[], Result]) -> Result | None:
        """Returns what `work` returns, or None once the main thread has a signal.

        For work that leaves the state as it is, and may take long. Several processes
        finish it: one of them cannot leave what all take part in.
        """
        if processes.several():
            return work()
        try:
            try:
                self._can_leave = True
                return None if self._noted else work()
            finally:
                self._can_leave = False
        except _AskedToStop:
            return None

    def note(self, number: int) -> None:
        """Takes a signal, in the main thread."""
        self._noted.append(signal.Signals(number))
        if self._can_leave:
            self._can_leave = False
            raise _AskedToStop

    def ask_to_stop(self, number: signal.Signals) -> str | None:
        """Is `ending.Work`'s."""
        if self._is_idle():
            return None
        self._noted.append(number)
        return "saving a checkpoint after this step; a second one ends the run at once"

    def last_words(self, number: signal.Signals) -> str:
        """Is `ending.Work`'s."""
        lost = 0 if self._is_idle() else self._done - self._on_disk()
        return self._describe(number.name, self._on_disk(), lost)

    def _is_idle(self) -> bool:
        """Whether no step was taken that is not on disk."""
        if processes.several():  # of which the first alone knows what is on disk
            return self._done == self._start
        return self._done == self._on_disk()

    def _known(self) -> int:
        if self._noted:
            return int(self._noted[0])
        return LIMIT if time.monotonic() > self._deadline else 0

    def _tell(self, known: int) -> jax.Array:
        """Tells what is known, and the milliseconds of a step, 0 before they are."""
        now, steps, milliseconds = time.monotonic(), self._done - self._asked_at, 0
        if self._asked_time is not None:
            taken = 1000 * (now - self._asked_time) / steps
            milliseconds = round(min(1e6, max(1, taken)))
        self._asked_at, self._asked_time = self._done, now
        own = self._runner.share(self._runner.num_devices)
        placed = np.tile(np.int32([known, milliseconds]), (own.stop - own.start, 1))
        return self._exchange(self._runner.put_share(placed))


@contextlib.contextmanager
def stop_requests(stopping: Stopping) -> Iterator[None]:
    """Has `stopping` take the first signal; a second one acts as it always does."""
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        if not signals.is_watched():
            signal.signal(number, before[number])
        stopping.note(number)

    try:
        for number in signals.SIGNALS:
            with contextlib.suppress(ValueError):  # not the main thread
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, note)
        with signals.kept(stopping):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(stop: int) -> str:
    return "train.stop_after_*" if stop == LIMIT else signal.Signals(stop).name


def exit_status(stop: int) -> int:
    """As a shell has it: a limit that was set is no failure."""
    return 0 if stop == LIMIT else 128 + stop
