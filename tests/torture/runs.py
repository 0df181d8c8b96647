"""Small runs of main.py that trials start, kill, and compare."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from invariance_propagation.store.checkpoint import FOLDER, steps_in
from invariance_propagation.store.facts import read_facts
from tests.tiny_run import CHANGES, ROOT, TINY, flags_of, rows_without_times

LIMIT = 300  # seconds that one run may take
SUMMARY = "summary.json"
# Variables of runs whose first seconds are not what is tried: they read what another one
# has compiled. The size makes JAX lock the folder.
COMPILED = tempfile.TemporaryDirectory(prefix="compiled_")
COMPILED_ONCE = {
    "JAX_COMPILATION_CACHE_DIR": COMPILED.name,
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(10**10),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
}

# Every process writes the rows of bank and graph that it has.
OWN_ROWS = [
    "--config.method.graph=sharded",
    "--config.train.gather_checkpoints=False",
]

# What other methods need to fit the few images of `TINY`.
FITTED = {
    "unmix": {"method.inner.background_size": 64, "method.inner.start_epoch": 2},
    "odc": {"method.num_clusters": 8},
}


class Outcome(NamedTuple):
    """The result of one trial.

    Attributes:
      name: what was tried.
      count: how often.
      failures: one line for each time that it went wrong.
      note: what else is worth knowing.
    """

    name: str
    count: int
    failures: list[str]
    note: str = ""

    def __str__(self) -> str:
        verdict = f"{len(self.failures)} FAILED" if self.failures else "ok"
        line = f"{self.name}: {self.count} tried, {verdict}"
        return line + (f" ({self.note})" if self.note else "")


def flags_by(method: str) -> list[str]:
    """Returns the flags of `TINY` for another method, which has options of its own."""
    shared = {key: x for key, x in CHANGES.items() if not key.startswith("method.")}
    return flags_of(shared | FITTED.get(method, {}), method=method)


def command(workdir: Path, *more: str, flags: Sequence[str] = TINY) -> list[str]:
    """Returns the command of a run of 32 steps with a checkpoint every 5."""
    flags = [*flags, "--config.num_devices=2", f"--workdir={workdir}", *more]
    return [sys.executable, "main.py", *flags]


def begin(
    workdir: Path, *more: str, flags: Sequence[str] = TINY, **variables: str
) -> subprocess.Popen:
    """Starts the command of a run, its output kept."""
    # It compiles in half of the time, and is as exact.
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | variables
    return subprocess.Popen(
        command(workdir, *more, flags=flags),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def end(process: subprocess.Popen, *, limit: float = LIMIT) -> tuple[int | None, str]:
    """Waits for a process; returns its status, None if it hangs, and its errors."""
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"still running after {limit:.0f} s"
    return process.returncode, errors


def finish(
    workdir: Path, *more: str, flags: Sequence[str] = TINY
) -> tuple[int | None, str]:
    """Runs the command to its end."""
    return end(begin(workdir, *more, flags=flags, **COMPILED_ONCE))


def result_of(workdir: Path) -> dict[str, Any]:
    """Returns what two runs must have alike: every array, row and score."""
    newest = max(steps_in(workdir))
    summary = json.loads((workdir / SUMMARY).read_text(encoding="utf-8"))
    return {
        "step": newest,
        "arrays": read_facts(workdir / FOLDER / str(newest))["arrays"],
        "rows": rows_without_times(workdir),
        "summary": {k: v for k, v in summary.items() if k != "workdir"},
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Names the parts of two results that are not the same."""
    for name in expected:
        if found[name] != expected[name]:
            yield f"other {name}"


def compare(workdir: Path, expected: dict[str, Any]) -> str | None:
    """Returns a line if a finished run is not what it should be."""
    try:
        found = result_of(workdir)
    except (OSError, ValueError, KeyError) as error:
        return f"no result: {error!r}"
    return ", ".join(differences(found, expected)) or None


def finish_as(
    workdir: Path, expected: dict[str, Any], *, flags: Sequence[str] = TINY
) -> str | None:
    """Runs the command to its end; returns a line if that is not what it should be."""
    status, errors = finish(workdir, flags=flags)
    if status:
        return f"status {status}: {errors.strip()[-300:]}"
    return compare(workdir, expected)


def lines_of(errors: str) -> list[str]:
    """Returns the lines that a person would see on the terminal's error output."""
    return [line for line in errors.splitlines() if line.strip()]
