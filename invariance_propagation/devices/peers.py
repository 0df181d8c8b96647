"""Notices which of several processes does not answer any more, and ends the others.

Each process counts up in JAX's key-value store, which process 0 holds. Process 0 looks
at all counts and tells the others whom it misses; they look at that of process 0.
Nothing of it waits for the main thread, which may be inside a collective for good.
"""

import contextlib
import json
import signal
import socket
import threading
import time
from typing import Any, NoReturn

from invariance_propagation import signals

BEAT_EVERY = 1.0  # seconds
# A machine may pause for some seconds, as while it is moved. JAX's own limit, after which
# it aborts with messages of its own, must be longer.
SILENT_AFTER = 60.0  # seconds
JAX_SILENT_AFTER = 600  # seconds
# The others must end before process 0, or JAX aborts them.
FAREWELL_SECONDS = 2 * BEAT_EVERY
ALIVE, TOLD = "invariance_propagation/alive/", "invariance_propagation/told/"


class Peers:
    """The other processes, as a thread of this one sees them."""

    def __init__(self, client: Any, own: int, count: int):
        """Prepares to watch.

        Args:
          client: JAX's, of the key-value store.
          own: number of this process, from 0.
          count: of processes.
        """
        self._client, self._own = client, own
        now = time.monotonic()
        watched = range(1, count) if own == 0 else [0]
        self._seen = {i: ("", now) for i in watched}  # count and host, since when

    def watch(self) -> None:
        """Starts the threads."""
        signals.on_farewell(self.tell)
        for work in (self._beat, self._judge):
            threading.Thread(target=work, daemon=True).start()

    def tell(self, fact: dict[str, Any]) -> None:
        """Tells the other processes that this one ends, and lets them end first."""
        with contextlib.suppress(Exception):  # as where process 0 is the one missed
            self._client.key_value_set(f"{TOLD}{self._own}", json.dumps(fact))
        if self._own == 0:
            time.sleep(FAREWELL_SECONDS)

    def _beat(self) -> None:
        """Blocks for as long as process 0 does not answer; then `_judge` goes on alone."""
        number, host = 0, socket.gethostname()
        while True:
            number += 1
            # What matters is how long nothing came, not what JAX says of it.
            with contextlib.suppress(Exception):
                self._look(f"{number} {host}")
            time.sleep(BEAT_EVERY)

    def _look(self, alive: str) -> None:
        key = f"{ALIVE}{self._own}"
        self._client.key_value_set(key, alive, allow_overwrite=True)
        for name, fact in self._client.key_value_dir_get(TOLD):
            if name.removeprefix(TOLD) != str(self._own):
                _obey(json.loads(fact))
        if self._own == 0:
            found = dict(self._client.key_value_dir_get(ALIVE))
        else:
            found = {f"{ALIVE}0": self._client.key_value_try_get(f"{ALIVE}0")}
        for i, (before, _) in self._seen.items():
            text = found.get(f"{ALIVE}{i}", before)
            if text != before:
                self._seen[i] = text, time.monotonic()

    def _judge(self) -> None:
        woken = time.monotonic()
        while True:
            time.sleep(BEAT_EVERY)
            now = time.monotonic()
            if now - woken > SILENT_AFTER / 2:
                # This process was stopped itself, and knows nothing of the others yet.
                self._seen = {i: (text, now) for i, (text, _) in self._seen.items()}
            woken = now
            for i, (text, since) in self._seen.items():
                if now - since > SILENT_AFTER:
                    host = text.partition(" ")[2]
                    line = (
                        f"error: process {i}{host and f' on {host}'} has not answered "
                        f"for {now - since:.0f} seconds, as when it is stopped or cut "
                        "off: end it, and run the same command on every host to go on "
                        "from the last checkpoint"
                    )
                    signals.end_now(1, line, {"line": line})


def _obey(fact: dict[str, Any]) -> NoReturn:
    """Ends this process as another one has."""
    if "signal" in fact:
        signals.end_by(signal.Signals(fact["signal"]))
    signals.end_now(1, fact["line"])


def first_is_gone() -> NoReturn:
    """Ends this process because process 0 has ended before it."""
    signals.end_now(
        1,
        "error: process 0 has ended or was killed: look at what it said, and run the "
        "same command on every host to go on from the last checkpoint",
    )
