"""What a GPU or TPU makes of the code: right numbers first, then time and memory.

    python benchmarks/accelerator.py --minutes=9 --output=runs/accelerator
    python benchmarks/accelerator_page.py runs/accelerator

Stages run in order of worth, each in a process of its own. A stage that ends writes
OUTPUT/STAGE.json; the same command continues with those that have none. One that fails
writes OUTPUT/STAGE.failed and is tried again after the others.

It needs no network. Of requirements.txt, tensorflow-datasets and tensorboardX may be
missing for all but `digits`, `resume`, `step-*`, `input` and `fashion`. PyTorch is compared
with where it is installed. `fashion` needs --fashion, the folder of Fashion-MNIST's four
files. `--small` is a trial in miniature, on a CPU.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from provenance import provenance
from stages import STAGES

FEWEST_SECONDS = 10  # with which a stage is begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--small", action="store_true", help="in miniature")
    parser.add_argument("--fashion", default="", help="folder of Fashion-MNIST's files")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    for stage in waiting(options.output):
        if stage == "fashion" and not options.fashion:
            print("fashion: left out; --fashion=DIR names the folder of its four files")
            continue
        left = ends - time.monotonic()
        if left < FEWEST_SECONDS:
            print(f"{stage}: no time is left; the same command continues here")
            return
        run_stage(stage, options.output, left)


def waiting(output: Path) -> list[str]:
    """Returns the stages without a result, those that have failed last."""
    left = []
    for stage in STAGES:
        if (output / f"{stage}.json").exists():
            print(f"{stage}: there already")
        else:
            left.append(stage)
    return sorted(left, key=lambda stage: (output / f"{stage}.failed").exists())


def run_stage(stage: str, output: Path, seconds: float) -> None:
    """Runs a stage in a process, for at most `seconds`, and keeps what it returns."""
    print(f"{stage} ...", flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], f"--stage={stage}"]
    environment = os.environ | {"BENCHMARK_SECONDS": f"{seconds:.0f}"}
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        said, wrong = process.communicate(timeout=seconds)
    except BaseException as error:  # also Ctrl-C: none of its processes may stay
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        print(f"{stage}: not done in {seconds:.0f} s; the same command tries it again")
        return
    took = time.monotonic() - begun
    record = provenance() | {"stage": stage, "seconds": round(took, 1)}
    if process.returncode:
        lines = wrong.strip().splitlines()[-8:]
        print(f"{stage}: failed after {took:.0f} s: {lines[-1:]}")
        write(output / f"{stage}.failed", record | {"failed": lines})
        return
    result = json.loads(said.splitlines()[-1])
    print(f"{stage}: {took:.0f} s: {json.dumps(result)[:300]}", flush=True)
    write(output / f"{stage}.json", record | result)
    (output / f"{stage}.failed").unlink(missing_ok=True)


def write(path: Path, record: dict[str, Any]) -> None:
    """Writes a file that is whole or not there."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=2) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    main()
