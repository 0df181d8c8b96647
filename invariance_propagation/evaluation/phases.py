"""Says what takes long, and how long it took."""

import contextlib
import threading
import time
from collections.abc import Iterator

import tqdm

PATIENCE = 1.0  # seconds that need no explanation


@contextlib.contextmanager
def phase(name: str, *, patience: float | None = None) -> Iterator[None]:
    """Prints what is being done once it takes long, and its duration at the end.

    Work that is done sooner prints nothing. Work that fails prints no duration.

    Args:
      name: what is being done, such as 'reading digits'.
      patience: seconds until it is named; None stands for `PATIENCE`.
    """
    patience = PATIENCE if patience is None else patience
    start = time.monotonic()
    timer = threading.Timer(patience, _say, (f"{name} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    seconds = time.monotonic() - start
    if seconds >= patience:
        _say(f"{name}: {seconds:,.1f} s")


def _say(line: str) -> None:
    # Unlike `print`, this does not break a progress bar.
    tqdm.tqdm.write(line)
