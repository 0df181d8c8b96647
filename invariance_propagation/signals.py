"""Ends the process early, within seconds, with nothing left half-written.

A thread waits for signals, because Python's handlers do not run while the main thread is
inside XLA, for example while it compiles. This module needs only the standard library.
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
# Clusters send SIGKILL 30 seconds after SIGTERM.
SAVE_WITHIN = 25.0  # seconds
# A terminal and a wrapper program may both pass on the same Ctrl-C.
SAME_WITHIN = 0.2  # seconds
CLEAR_WITHIN = 2.0  # seconds, in case a network disk does not answer
FAREWELL_WITHIN = 3.0  # seconds, in case the network does not answer

_undo: dict[object, Callable[[], None]] = {}
# The thread that ends the process takes this lock and never releases it.
_ending = threading.RLock()


class Work(Protocol):
    """Work that must be saved when a signal comes."""

    def ask_to_stop(self, number: signal.Signals) -> str | None:
        """Asks to save and stop; returns what it waits for, None if it does not wait."""

    def last_words(self, number: signal.Signals) -> str:
        """Says what is left of the work if the process ends now."""


_work: list[Work] = []  # the innermost last
_farewells: list[Callable[[dict[str, Any]], None]] = []
_watching = threading.Event()


@contextlib.contextmanager
def undone_at_end(undo: Callable[[], None]) -> Iterator[None]:
    """Calls `undo` if `end_now` ends the process inside the block."""
    key = object()
    _undo[key] = undo
    try:
        yield
    finally:
        _undo.pop(key, None)


@contextlib.contextmanager
def kept(work: Work) -> Iterator[None]:
    """Asks `work` to stop if a signal comes inside the block."""
    _work.append(work)
    try:
        yield
    finally:
        _work.remove(work)


@contextlib.contextmanager
def not_now() -> Iterator[None]:
    """Lets a block finish before a signal ends the process. Keep the block short."""
    with _ending:
        yield


def begin() -> None:
    """Reserves the ending of the process for this thread; other threads wait."""
    _ending.acquire()


def end_now(status: int, line: str, fact: dict[str, Any] | None = None) -> NoReturn:
    """Prints one line, undoes what is half done, and ends the process.

    Any thread may call this, whatever the main thread is doing.

    Args:
      status: exit status of the process.
      line: printed on standard error.
      fact: JSON for the other processes, if there are any.
    """
    begin()
    _write(2, line)
    if fact is not None:
        for tell in _farewells:
            _within(FAREWELL_WITHIN, partial(tell, fact))
    leave(status)


def leave(status: int) -> NoReturn:
    """Ends the process without Python's exit handlers, in which threads may hang."""
    _within(CLEAR_WITHIN, _clear)
    os._exit(status)


def end_by(number: signal.Signals) -> NoReturn:
    """Ends this process as by a signal that another process received."""
    end_now(128 + number, _last_words(number))


def on_farewell(tell: Callable[[dict[str, Any]], None]) -> None:
    """Registers `tell`; `end_now` calls it with the fact for the other processes."""
    _farewells.append(tell)


def watch() -> None:
    """Starts to obey signals, in a thread. Call this from a program's main thread.

    Signals that are ignored, as SIGHUP is under nohup, stay ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            # Python writes only signals with a handler to the pipe.
            signal.signal(number, _leave_it_to_the_thread)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _watching.set()
    threading.Thread(target=_obey, args=(reading,), daemon=True).start()


def is_watched() -> bool:
    """Returns whether `watch` was called."""
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
            continue  # another signal, with a separate handler
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
    """Writes a line, unless nobody reads it: that would block this thread."""
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
    # Twice, because the main thread still runs and may begin another file meanwhile.
    for _ in range(2):
        for undo in reversed(list(_undo.values())):
            with contextlib.suppress(Exception):
                undo()
