"""Runs that are killed, or asked to stop, at any moment, and go on."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs import methods
from invariance_propagation.methods import METHODS
from invariance_propagation.store.checkpoint import FOLDER
from invariance_propagation.train.journal import METRICS_FILE
from tests.tiny_run import TINY
from tests.torture.runs import (
    COMPILED_ONCE,
    OWN_ROWS,
    Outcome,
    begin,
    end,
    finish,
    finish_as,
    flags_by,
    lines_of,
    result_of,
)

KILLS_OF_A_RUN = 5
POLL = 0.002  # seconds


def wait_for_time(workdir: Path, process: subprocess.Popen, chance: random.Random):
    """Waits for any moment from the start of the process to its end."""
    until = time.monotonic() + chance.uniform(0, 20)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(POLL)


def wait_for_save(workdir: Path, process: subprocess.Popen, chance: random.Random):
    """Waits until a checkpoint is being written."""
    skipped, seen = chance.randrange(3), set()
    folder = workdir / FOLDER
    while process.poll() is None and len(seen) <= skipped:
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        seen |= {name for name in names if not name.isdigit() and name[0] != "."}
        time.sleep(POLL)


def wait_for_row(workdir: Path, process: subprocess.Popen, chance: random.Random):
    """Waits until a row of metrics has just been written."""
    path = workdir / METRICS_FILE
    size = path.stat().st_size if path.exists() else 0
    rows, longer = chance.randrange(1, 5), 0
    while process.poll() is None and longer < rows:
        now = path.stat().st_size if path.exists() else 0
        longer, size = longer + (now > size), now
        time.sleep(POLL)


MOMENTS: tuple[Callable, ...] = (wait_for_time, wait_for_save, wait_for_row)


def kill_each_method(folder: Path, *, count: int) -> Outcome:
    """Kills runs of every method but the usual one, `count` times each.

    The last one is the usual method, with its rows in files.
    """
    others = sorted(METHODS.keys() - {methods.DEFAULT})
    kinds = {method: flags_by(method) for method in others}
    kinds["rows in files"] = [*TINY, *OWN_ROWS]
    failures, tried = [], 0
    for method, flags in kinds.items():
        own = folder / method
        own.mkdir()
        status, errors = finish(own / "finished", flags=flags)
        tried += count
        if status:
            failures.append(f"{method}: status {status}: {errors.strip()[-300:]}")
            continue
        expected = result_of(own / "finished")
        outcome = kill(own, expected, count=count, flags=flags)
        failures += [f"{method}: {failure}" for failure in outcome.failures]
    return Outcome("SIGKILL, each other method, and rows in files", tried, failures)


def kill(
    folder: Path,
    expected: dict[str, Any],
    *,
    count: int,
    flags: Sequence[str] = TINY,
) -> Outcome:
    """Kills runs with SIGKILL `count` times; each must end as one that was not killed."""
    chance, failures, done, number = random.Random(0), [], 0, 0
    while done < count:
        workdir, number = folder / f"killed_{number}", number + 1
        moments = []
        while done < count and len(moments) < KILLS_OF_A_RUN:
            moment = MOMENTS[done % len(MOMENTS)]
            # Killed at any time it compiles, as the first run of a user does.
            quick = {} if moment is wait_for_time else COMPILED_ONCE
            process = begin(workdir, flags=flags, **quick)
            moment(workdir, process, chance)
            was_alive = process.poll() is None
            process.send_signal(signal.SIGKILL)
            end(process)
            if not was_alive:  # it ended before the moment came
                break
            moments.append(moment.__name__)
            done += 1
        if wrong := finish_as(workdir, expected, flags=flags):
            failures.append(f"{', '.join(moments)}: {wrong}")
            if not moments:  # it ends by itself, and would do so again
                break
        else:
            shutil.rmtree(workdir)
    note = f"{number} runs; each ended bit for bit as without"
    return Outcome("SIGKILL at any moment", done, failures, note)


def stop(
    folder: Path, expected: dict[str, Any], *, count: int, seconds: float
) -> Outcome:
    """Sends SIGTERM, SIGINT and SIGHUP at any moment: obeyed within 30 s, in a line.

    Args:
      folder: an empty folder.
      expected: `result_of` a run without trouble.
      count: how many signals.
      seconds: what a run takes.
    """
    chance, failures, slowest, living = random.Random(1), [], 0.0, 0
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in range(count):
        workdir, sent = folder / f"stopped_{number}", numbers[number % 3]
        process = begin(workdir)
        # Evenly from the first moment on, so that imports and compiling are met too.
        time.sleep(0.05 + (number + chance.random()) * seconds / count)
        asked = time.monotonic()
        living += process.poll() is None
        process.send_signal(sent)
        status, errors = end(process, limit=60)
        took = time.monotonic() - asked
        slowest = max(slowest, took)
        wrong = []
        if took > 30:
            wrong.append(f"took {took:.0f} s")
        # Before main.py's first lines it is the system that ends the process.
        if status not in (0, 128 + sent, -sent if number == 0 else 0):
            wrong.append(f"status {status}")
        if "Traceback" in errors or len(lines_of(errors)) > 3:
            wrong.append(f"said {errors.strip()[-300:]!r}")
        late = finish_as(workdir, expected)
        wrong += [late] if late else []
        if wrong:
            failures.append(f"{sent.name}: {'; '.join(wrong)}")
        else:
            shutil.rmtree(workdir)
    note = f"{living} met a living run; the slowest took {slowest:.1f} s"
    return Outcome("SIGTERM, SIGINT, SIGHUP at any moment", count, failures, note)
