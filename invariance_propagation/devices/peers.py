"""Notices a process that no longer answers, and ends the other processes.

Each process counts up in JAX's key-value store, which process 0 holds. Process 0 watches
all counts and tells the others which process is missing; the others watch the count of
process 0. All this runs in threads, because the main thread may hang in a collective.
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
STOP_WITHIN = 5.0  # seconds
# A machine may pause for some seconds, for example while it is migrated. JAX's own limit
# must be longer, because JAX then aborts with messages that help nobody.
SILENT_AFTER = 60.0  # seconds
JAX_SILENT_AFTER = 600  # seconds
# The other processes must end before process 0, or JAX aborts them.
FAREWELL_SECONDS = 2 * BEAT_EVERY
ALIVE, TOLD = "invariance_propagation/alive/", "invariance_propagation/told/"


class Peers:
    """Watches the other processes from threads of this one."""

    def __init__(self, client: Any, process_id: int, count: int):
        """Prepares to watch.

        Args:
          client: JAX's client of the key-value store.
          process_id: number of this process, from 0.
          count: number of processes.
        """
        self._client, self._id = client, process_id
        now = time.monotonic()
        watched = range(1, count) if process_id == 0 else [0]
        self._seen = {i: ("", now) for i in watched}  # last text, and since when
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def watch(self) -> None:
        """Starts the threads."""
        signals.on_farewell(self.tell)
        self._beating.start()
        threading.Thread(target=self._judge, daemon=True).start()

    def stop(self) -> None:
        """Ends the thread that calls JAX's client.

        Python aborts the process if a thread returns from C++ while Python itself ends.
        """
        self._stopped.set()
        self._beating.join(STOP_WITHIN)

    def tell(self, fact: dict[str, Any]) -> None:
        """Tells the other processes that this one ends; process 0 lets them end first."""
        with contextlib.suppress(Exception):  # for example if process 0 is missing
            self._client.key_value_set(f"{TOLD}{self._id}", json.dumps(fact))
        if self._id == 0:
            time.sleep(FAREWELL_SECONDS)

    def _beat(self) -> None:
        """Counts up and reads the others' counts; may hang while process 0 is silent."""
        number, host = 0, socket.gethostname()
        while not self._stopped.is_set():
            number += 1
            # Ignore errors: `_judge` only needs to know how long nothing came.
            with contextlib.suppress(Exception):
                self._look(f"{number} {host}")
            self._stopped.wait(BEAT_EVERY)

    def _look(self, alive: str) -> None:
        key = f"{ALIVE}{self._id}"
        self._client.key_value_set(key, alive, allow_overwrite=True)
        for name, fact in self._client.key_value_dir_get(TOLD):
            if name.removeprefix(TOLD) != str(self._id):
                _obey(json.loads(fact))
        if self._id == 0:
            counts = dict(self._client.key_value_dir_get(ALIVE))
        else:
            counts = {f"{ALIVE}0": self._client.key_value_try_get(f"{ALIVE}0")}
        for i, (before, _) in self._seen.items():
            text = counts.get(f"{ALIVE}{i}", before)
            if text != before:
                self._seen[i] = text, time.monotonic()

    def _judge(self) -> None:
        """Ends this process once another one has been silent for too long."""
        woken = time.monotonic()
        while True:
            time.sleep(BEAT_EVERY)
            now = time.monotonic()
            if now - woken > SILENT_AFTER / 2:
                # This process was paused itself, so start to wait for the others again.
                self._seen = {i: (text, now) for i, (text, _) in self._seen.items()}
            woken = now
            for i, (text, since) in self._seen.items():
                if now - since > SILENT_AFTER:
                    host = text.partition(" ")[2]
                    line = (
                        f"error: process {i}{host and f' on {host}'} has not answered "
                        f"for {now - since:.0f} seconds; it may be stopped or cut off "
                        "from the network: end it, and run the same command on every "
                        "host to continue from the last checkpoint"
                    )
                    signals.end_now(1, line, {"line": line})


def _obey(fact: dict[str, Any]) -> NoReturn:
    """Ends this process in the way another one has ended."""
    if "signal" in fact:
        signals.end_by(signal.Signals(fact["signal"]))
    signals.end_now(1, fact["line"])


def first_is_gone() -> NoReturn:
    """Ends this process because process 0 has ended before it."""
    signals.end_now(
        1,
        "error: process 0 has ended or was killed: look at its messages, and run the "
        "same command on every host to continue from the last checkpoint",
    )
