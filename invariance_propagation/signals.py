"""Ends the process before its work is done, within seconds and with nothing half-written.

A thread waits for signals, because Python's own handlers do not run while the main
thread is inside XLA, as when it compiles. It needs the standard library alone.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, Protocol

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Clusters kill 30 seconds after they have asked.
SAVE_WITHIN = 25.0  # seconds
# A terminal and a program around this one may both pass on the same Ctrl-C.
SAME_WITHIN = 0.2  # seconds
CLEAR_WITHIN = 2.0  # seconds, as where a network disk does not answer
FAREWELL_WITHIN = 3.0  # seconds, as where the network does not

_undo: dict[object, Callable[[], None]] = {}
# Whoever ends the process takes it, and never gives it back.
_ending = threading.RLock()


class Work(Protocol):
    """Work that a signal must not throw away."""

    def ask_to_stop(self, number: signal.Signals) -> str | None:
        """Asks to save and stop; returns what is waited for, None if nothing is."""

    def last_words(self, number: signal.Signals) -> str:
        """Returns what the work comes to if the process ends now."""


_work: list[Work] = []  # the innermost last
_farewells: list[Callable[[dict[str, Any]], None]] = []
_watching = threading.Event()


@contextlib.contextmanager
def undone_at_end(undo: Callable[[], None]) -> Iterator[None]:
    """Has `undo` called if the process ends inside the block by `end_now`."""
    key = object()
    _undo[key] = undo
    try:
        yield
    finally:
        _undo.pop(key, None)


@contextlib.contextmanager
def kept(work: Work) -> Iterator[None]:
    """Asks `work` to stop where a signal comes inside the block."""
    _work.append(work)
    try:
        yield
    finally:
        _work.remove(work)


@contextlib.contextmanager
def not_now() -> Iterator[None]:
    """Lets a block finish before a signal ends the process; it must be short."""
    with _ending:
        yield


def begin() -> None:
    """Makes this thread the one that ends the process; another that wants to waits."""
    _ending.acquire()


def end_now(status: int, line: str, fact: dict[str, Any] | None = None) -> NoReturn:
    """Prints one line, undoes what is half done, and ends the process.

    Any thread may call it, whatever the main thread is doing.

    Args:
      status: of the process.
      line: printed on standard error.
      fact: JSON that the other processes, if there are any, are to know.
    """
    begin()
    _write(2, line)
    if fact is not None:
        for tell in _farewells:
            _within(FAREWELL_WITHIN, partial(tell, fact))
    leave(status)


def leave(status: int) -> NoReturn:
    """Ends the process without Python's own end, in which threads may wait or complain."""
    _within(CLEAR_WITHIN, _clear)
    os._exit(status)


def end_by(number: signal.Signals) -> NoReturn:
    """Ends the process as a signal does, which another process has."""
    end_now(128 + number, _last_words(number))


def on_farewell(tell: Callable[[dict[str, Any]], None]) -> None:
    """Has `tell` called with what the other processes are to know at the end."""
    _farewells.append(tell)


def watch() -> None:
    """Obeys signals from here on, in a thread; for the main thread of a program.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            # Only a signal that has a handler is written to the pipe.
            signal.signal(number, _leave_it_to_the_thread)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _watching.set()
    threading.Thread(target=_obey, args=(reading,), daemon=True).start()


def is_watched() -> bool:
    """Returns whether `watch` obeys the signals of this process."""
    return _watching.is_set()


def _leave_it_to_the_thread(number: int, frame: object) -> None:
    del number, frame


def _obey(reading: int) -> None:
    first, asked_at = None, 0.0
    while True:
        left = first and max(0.0, asked_at + SAVE_WITHIN - time.monotonic())
        ready, _, _ = select.select([reading], [], [], left)
        number = os.read(reading, 1)[0] if ready else first
        if number not in SIGNALS:
            continue  # another one, which has a handler of its own
        number = signal.Signals(number)
        if ready and first and time.monotonic() < asked_at + SAME_WITHIN:
            continue
        work = _work[-1:]
        waits_for = work[0].ask_to_stop(number) if work and not first else None
        if waits_for is None:
            end_now(128 + number, _last_words(number), {"signal": int(number)})
        first, asked_at = number, time.monotonic()
        _write(1, f"{number.name}: {waits_for}")


def _within(seconds: float, work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)


def _write(file: int, line: str) -> None:
    """Writes a line, unless nobody reads it, which would block this thread."""
    with contextlib.suppress(OSError):
        if select.select([], [file], [], 1.0)[1]:
            os.write(file, f"{line}\n".encode(errors="backslashreplace"))


def _last_words(number: signal.Signals) -> str:
    for work in _work[-1:]:
        return work.last_words(number)
    by = "" if number == signal.SIGINT else f" by {number.name}"
    return f"error: interrupted{by}; nothing was left half written"


def _clear() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # The main thread still runs, and may have begun a file meanwhile.
    for _ in range(2):
        for undo in reversed(list(_undo.values())):
            with contextlib.suppress(Exception):
                undo()
