"""Says what a program is doing when one part of it takes longer than a second."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tqdm

SAY_AFTER = 1.0  # seconds


def say(text: str) -> None:
    """Prints a line on standard output at once, above any progress bar."""
    tqdm.tqdm.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def phase(name: str, say: Callable[[str], None] = say) -> Iterator[None]:
    """Names the work of a block once it takes longer than `SAY_AFTER`, and times it.

    Prints "reading the data ..." while the work goes on, and "reading the data: 12.3 s"
    when it is done. A block that is quicker, or that raises, has no second line.

    Args:
      name: what the block does, such as "reading the data".
      say: prints a line.
    """

    begun = time.monotonic()
    with after(SAY_AFTER, lambda: say(f"{name} ...")):
        yield
    seconds = time.monotonic() - begun
    if seconds >= SAY_AFTER:
        say(f"{name}: {duration(seconds)}")


@contextlib.contextmanager
def after(seconds: float, announce: Callable[[], None]) -> Iterator[None]:
    """Calls `announce` from a thread if the block runs longer than `seconds`."""

    def call() -> None:
        # The main thread prints too, and reports a closed output.
        with contextlib.suppress(OSError):
            announce()

    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def duration(seconds: float) -> str:
    """Formats seconds: '4.2 s' below a minute, else '2:05' or '1:02:05'."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """Formats seconds as a clock shows them: '0:04', '2:05' or '1:02:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
