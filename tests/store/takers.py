"""A process that tries to take a lock; it imports little, so four of them start at once."""

from pathlib import Path
from typing import Any

from invariance_propagation.errors import UserError
from invariance_propagation.store.lock import Lock


def take(folder: Path, begin: Any, taken: Any) -> None:
    lock = Lock(folder)
    begin.wait()
    try:
        lock.acquire()
    except UserError:
        taken.put(0)
    else:
        taken.put(1)
    begin.wait()  # so that nobody is gone before all have tried
