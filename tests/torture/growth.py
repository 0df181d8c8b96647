"""A long run with everything on: what it takes of memory must not grow."""

import json
import os
import statistics
import time
from pathlib import Path

from tests.torture.runs import Outcome, begin, end, lines_of

STEPS_PER_EPOCH = 8
WARM_UP = 0.2  # share of the steps
WINDOWS = 8  # equal parts of the steps after it
MOST = 0.02  # growth from the lowest window to the last, as a share


def resident(pid: int) -> float:
    """Returns the resident memory of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kilobytes = next(x.split()[1] for x in text.splitlines() if x.startswith("VmRSS"))
    return int(kilobytes) / 1000


def handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def last_step(path: Path) -> int:
    """Returns the step of the last row of metrics; 0 without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            return json.loads(file.read().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError, KeyError):
        return 0


def watch(workdir: Path, *flags: str) -> tuple[list[tuple[int, float, int]], int, str]:
    """Runs to the end; returns (step, MB, handles) twice a second, status and errors."""
    process, seen = begin(workdir, *flags), []
    while process.poll() is None:
        time.sleep(0.5)
        try:
            step = last_step(workdir / "metrics.jsonl")
            seen.append((step, resident(process.pid), handles(process.pid)))
        except (OSError, StopIteration):  # it has just ended
            break
    status, errors = end(process)
    return seen, status, errors


def medians_of_windows(
    seen: list[tuple[int, float, int]], *, steps: int
) -> list[float]:
    """Returns the median of MB in each part of the steps after the warm-up.

    Medians, because a checkpoint that is being written takes some memory for a moment.
    """
    length = (1 - WARM_UP) * steps / WINDOWS
    windows: list[list[float]] = [[] for _ in range(WINDOWS)]
    for step, megabytes, _ in seen:
        number = int((step - WARM_UP * steps) // length)
        if number >= 0:
            windows[min(number, WINDOWS - 1)].append(megabytes)
    return [statistics.median(window) for window in windows if window]


def grow(folder: Path, *, steps: int) -> Outcome:
    """Trains with rows, kNN, purity and checkpoints as often as one would."""
    seen, status, errors = watch(
        folder / "long",
        f"--config.train.epochs={steps // STEPS_PER_EPOCH}",
        "--config.train.checkpoint_every=100",
        "--config.train.evaluate_every=25",
        "--config.train.log_every=8",
        "--config.train.tensorboard=True",
    )
    failures = []
    if status != 0:
        failures.append(f"status {status}: {lines_of(errors)[-1:]}")
    medians = medians_of_windows(seen, steps=steps)
    note = "too short to tell"
    if len(medians) == WINDOWS:
        *before, after = medians
        growth = after / min(before) - 1
        opened = max(n for step, _, n in seen if step >= 0.9 * steps)
        note = f"{after:.0f} MB at the end, {min(before):.0f} to {max(before):.0f} before: "
        note += (
            f"{100 * growth:+.1f} % of the lowest; {opened} handles at most at the end"
        )
        if growth > MOST:
            failures.append(note)
    return Outcome("steps with everything on", steps, failures, note)
