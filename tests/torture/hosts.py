"""Two processes, one of which is killed, stopped, or cut off from the other."""

import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.store.checkpoint import steps_in
from invariance_propagation.store.memory import restore_memory
from tests.torture.runs import OWN_ROWS, Outcome, begin, end, finish, lines_of

LIMIT = 180  # seconds until the other process must have ended
# As in tests/devices/test_processes.py: sums of two processes are in another order, and these
# settings keep that from choosing other neighbours.
FLAGS = [
    "--config.encoder.norm_group=16",
    "--config.train.batch_size=64",
    "--config.optimizer.learning_rate=1e-6",
    "--config.train.epochs=500",
    "--config.train.evaluate_every=0",
    "--config.train.checkpoint_every=8",
]


class Line(threading.Thread):
    """Passes bytes on between a port of its own and another one, until it is cut."""

    def __init__(self, port: int):
        super().__init__(daemon=True)
        self._port, self._sockets, self.is_cut = port, [], threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]

    def run(self) -> None:
        while not self.is_cut.is_set():
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(
                    target=self._pass, args=(one, other), daemon=True
                ).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                while self.is_cut.is_set():  # as on a dead network: no end, no answer
                    time.sleep(1)
                target.sendall(data)
        except OSError:
            pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def start_two(workdir: Path, *more: str) -> tuple[list[subprocess.Popen], Line]:
    """Starts two processes that know each other; the second by a line that can be cut."""
    port, started = free_port(), []
    line = Line(port)
    line.start()
    for own, address in enumerate((port, line.port)):
        flags = [f"--coordinator=127.0.0.1:{address}", "--num_processes=2"]
        flags += [f"--process_id={own}", *FLAGS, *more, "--config.num_devices=4"]
        started.append(begin(workdir, *flags, JAX_NUM_CPU_DEVICES="2"))
    return started, line


def one_of_two_goes(folder: Path) -> Outcome:
    """Kills, stops or cuts off the first and the second of two processes in turn."""
    ways = [(how, who) for how in ("killed", "stopped", "cut off") for who in (0, 1)]
    ways.remove(("cut off", 0))  # the line between them is one
    failures, slowest = [], 0.0
    for how, who in ways:
        workdir = folder / f"{how.replace(' ', '_')}_{who}"
        # Where the second one goes, each has written its own rows.
        started, line = start_two(workdir, *(OWN_ROWS if who else ()))
        wrong = []
        try:
            deadline = time.monotonic() + LIMIT
            while not any(steps_in(workdir)) and time.monotonic() < deadline:
                time.sleep(0.2)
            victim, other = started[who], started[1 - who]
            asked = time.monotonic()
            if how == "killed":
                victim.send_signal(signal.SIGKILL)
            elif how == "stopped":
                victim.send_signal(signal.SIGSTOP)
            else:
                line.is_cut.set()
            status, errors = end(other, limit=LIMIT)
            took = time.monotonic() - asked
            slowest = max(slowest, took)
            own = [x for x in lines_of(errors) if x.startswith("error: ")]
            if status != 1 or len(own) != 1:
                wrong.append(f"status {status}: {errors.strip()[-300:]!r}")
        finally:
            for process in started:
                process.kill()
                process.wait()
        try:
            restore_memory(workdir)
        except (UserError, TrainingError) as error:
            wrong.append(f"no checkpoint is left: {error}")
        if wrong:
            failures.append(f"process {who} {how}: {'; '.join(wrong)}")
    note = f"the other ended with one line of ours, after {slowest:.0f} s at most"
    return Outcome(
        "one of two processes killed, stopped, cut off", len(ways), failures, note
    )


def one_run_per_workdir(folder: Path, *, count: int) -> Outcome:
    """Starts a second run in a workdir in which one lives."""
    failures, endless = [], "--config.train.epochs=100000"
    first = begin(folder / "shared", endless)
    try:
        deadline = time.monotonic() + LIMIT
        while not any(steps_in(folder / "shared")) and time.monotonic() < deadline:
            time.sleep(0.2)
        for _ in range(count):
            status, errors = finish(folder / "shared", endless)
            if status != 2 or f"in use by process {first.pid}" not in errors:
                failures.append(f"status {status}: {errors.strip()[-300:]!r}")
        if first.poll() is not None:
            failures.append("the first one ended")
    finally:
        first.kill()
        first.wait()
    return Outcome("a second run in the same workdir", count, failures, "each refused")
