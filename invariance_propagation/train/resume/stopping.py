"""Stops a run before its last step, in all processes after the same step."""

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
from invariance_propagation.train.options import TrainOptions

Result = TypeVar("Result")

# Reasons to stop besides the numbers of signals, which are all below.
STEPS, HOURS = 128, 129
ASK_EVERY = 8  # steps at most between two exchanges
ASK_WITHIN = 2.0  # seconds between two exchanges, if steps are slow
GO_ON = "run the same command to continue"


class _AskedToStop(BaseException):
    """Interrupts work that a stop need not wait for."""


class Stopping:
    """Decides after each step whether to stop, the same in all processes.

    Only one process may know of a signal, and clocks differ. So every few steps the
    processes exchange what they know. The result is read at the next exchange, so that
    no step waits for it.
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
        """Starts to count hours.

        Args:
          runner: runs the exchange.
          start: the step of the checkpoint on disk.
          last_step: the step to stop after; None for no such limit.
          hours: from now, after which to stop; 0 or None for no such limit.
          on_disk: returns the step of the newest checkpoint on disk.
          describe: (what stopped the run, step on disk, number of lost steps) -> message.
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
        """Returns 0 to continue; to stop, a signal's number, `STEPS` or `HOURS`.

        Args:
          done: the number of steps taken.
        """
        self._done = done
        if done == self._last_step:
            return STEPS
        if not processes.several():
            return self._known()
        if done < self._next:
            return 0
        told, self._told = self._told, self._tell(self._known())
        known, milliseconds = (0, 0) if told is None else self._runner.local(told)[0]
        # All processes have read the same figures, so all exchange at the same step.
        fast = int(1000 * ASK_WITHIN / milliseconds) if milliseconds else 1
        self._next = done + min(ASK_EVERY, max(1, fast))
        return int(known)

    def unless_asked(self, work: Callable[[], Result]) -> Result | None:
        """Returns what `work` returns, or None if the main thread gets a signal.

        `work` may take long, and must not change the state. Several processes always
        finish it, because one process cannot leave work that all take part in.
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
        """Notes a signal, in the main thread."""
        self._noted.append(signal.Signals(number))
        if self._can_leave:
            self._can_leave = False
            raise _AskedToStop

    def ask_to_stop(self, number: signal.Signals) -> str | None:
        """Implements `signals.Work`."""
        if self._is_idle():
            return None
        self._noted.append(number)
        return "saving a checkpoint after this step; a second one ends the run at once"

    def last_words(self, number: signal.Signals) -> str:
        """Implements `signals.Work`."""
        lost = 0 if self._is_idle() else self._done - self._on_disk()
        return self._describe(number.name, self._on_disk(), lost)

    def _is_idle(self) -> bool:
        """Returns whether every step taken is on disk."""
        if processes.several():  # only the first process knows what is on disk
            return self._done == self._start
        return self._done == self._on_disk()

    def _known(self) -> int:
        if self._noted:
            return int(self._noted[0])
        return HOURS if time.monotonic() > self._deadline else 0

    def _tell(self, known: int) -> jax.Array:
        """Sends the reason to stop, and milliseconds per step (0 if not known yet)."""
        now, steps, milliseconds = time.monotonic(), self._done - self._asked_at, 0
        if self._asked_time is not None:
            taken = 1000 * (now - self._asked_time) / steps
            milliseconds = round(min(1e6, max(1, taken)))
        self._asked_at, self._asked_time = self._done, now
        share = self._runner.share(self._runner.num_devices)
        placed = np.tile(np.int32([known, milliseconds]), (share.stop - share.start, 1))
        return self._exchange(self._runner.put_share(placed))


@contextlib.contextmanager
def stop_requests(stopping: Stopping) -> Iterator[None]:
    """Makes `stopping` take the first signal; a second one acts as usual."""
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


def is_limit(stop: int) -> bool:
    """Returns whether a limit that the user has set stops the run, and no signal."""
    return stop in (STEPS, HOURS)


def describe(stop: int, options: TrainOptions) -> str:
    """Names what stops a run: a signal, or a config key with its value."""
    if stop == STEPS:
        return f"train.stop_after_steps={options.stop_after_steps}"
    if stop == HOURS:
        return f"train.stop_after_hours={options.stop_after_hours:g}"
    return signal.Signals(stop).name


def advise(stop: int, *, taken: int) -> str:
    """Says how to continue a run that has stopped.

    The same command would not get anywhere if its limit allows a single step.

    Args:
      stop: the reason.
      taken: the number of steps since this command began.
    """
    if not is_limit(stop):
        return GO_ON
    key = "train.stop_after_steps" if stop == STEPS else "train.stop_after_hours"
    to_the_end = f"--config.{key}=0 to train to the end"
    if taken > 1:
        return f"{GO_ON} for as long again, or add {to_the_end}"
    return (
        f"the same command would stop after one step: raise {key}, or add {to_the_end}"
    )


def exit_status(stop: int) -> int:
    """Returns the exit status as a shell has it; 0 for a limit that the user has set."""
    return 0 if is_limit(stop) else 128 + stop
