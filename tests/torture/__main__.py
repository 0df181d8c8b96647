"""Tries what must not be lost, and prints one line for each kind of trial.

    python -m tests.torture [--quick] [--keep=DIR] [NAME ...]

Without names everything is tried, at most an hour on two cores; the figures are written
to benchmarks/results/torture.json. `--quick` tries a tenth of it and writes nothing.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.provenance import write_result
from invariance_propagation import devices
from tests.torture import damage, disk, growth, hosts, kills, pictures
from tests.torture.runs import Outcome, finish, result_of


def trials(
    folder: Path, finished: Path, seconds: float, share: float
) -> dict[str, Callable]:
    """Returns each trial by name, with `share` of its full count.

    Args:
      folder: for the runs of the trials.
      finished: the workdir of a run without trouble.
      seconds: what that run took.
      share: in (0, 1].
    """
    expected = result_of(finished)

    def some(count: int) -> int:
        return max(1, round(share * count))

    return {
        "kills": lambda: kills.kill(folder, expected, count=some(50)),
        "methods": lambda: kills.kill_each_method(folder, count=some(10)),
        "signals": lambda: kills.stop(
            folder, expected, count=some(20), seconds=seconds
        ),
        "damage": lambda: damage.files(folder, finished, flips=some(5)),
        "disk": lambda: disk.full(folder, expected, finished=finished, count=some(20)),
        "pictures": lambda: pictures.mutate(count=some(10_000)),
        "growth": lambda: growth.grow(folder, steps=some(10_000)),
        "hosts": lambda: hosts.one_of_two_goes(folder),
        "lock": lambda: hosts.one_run_per_workdir(folder, count=some(5)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--keep", type=Path, help="an empty folder; what failed stays")
    chosen = parser.parse_args()
    devices.split_cpu(2)  # as the runs have, before anything starts JAX
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="torture_"))
    folder.mkdir(parents=True, exist_ok=True)
    finished, began = folder / "finished", time.monotonic()
    status, errors = finish(finished)
    if status:
        print(f"the run without trouble failed: {errors}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    tried = trials(folder, finished, seconds, 0.1 if chosen.quick else 1.0)
    if unknown := set(chosen.names) - set(tried):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(tried)}")
    outcomes: dict[str, Outcome] = {}
    for name, trial in tried.items():
        if not chosen.names or name in chosen.names:
            asked = time.monotonic()
            outcomes[name] = outcome = trial()
            print(f"{outcome}  {time.monotonic() - asked:.0f} s", flush=True)
            for failure in outcome.failures:
                print(f"    {failure}", flush=True)
    failed = sum(len(outcome.failures) for outcome in outcomes.values())
    minutes = (time.monotonic() - began) / 60
    print(f"{failed} failures in {minutes:.0f} minutes")
    if not chosen.quick and not chosen.names:
        record = {name: outcome._asdict() for name, outcome in outcomes.items()}
        write_result("torture", {"minutes": round(minutes, 1), "trials": record})
    if not chosen.keep and not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
