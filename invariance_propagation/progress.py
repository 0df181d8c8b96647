"""Says on the terminal what the program is doing."""

import contextlib
import time
from collections.abc import Iterator

WORTH_TELLING = 1.0  # seconds


@contextlib.contextmanager
def phase(text: str) -> Iterator[None]:
    """Prints what a block does and, if it took more than a second, how long it took."""
    print(text, flush=True)
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start
    if seconds > WORTH_TELLING:
        print(f"  took {seconds:.1f} s", flush=True)
