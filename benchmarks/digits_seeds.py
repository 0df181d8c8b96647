"""Measures the demo's kNN over ten seeds; docs/results.md has the figures.

    python benchmarks/digits_seeds.py                       # measure, with this Python
    python benchmarks/digits_seeds.py --beside=runs/digits  # compare a finished run

Each seed is the demo with another --config.seed, one after the other on all cores. What
was measured lies in results/digits_seeds.json, by version of Python, with the settings
that it was measured with. A run is only compared with scores of its settings.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from provenance import RESULTS, provenance

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RUNS = ROOT / "runs" / "digits_seeds"
PATH = RESULTS / "digits_seeds.json"
NUM_SEEDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, help="workdir of a finished run")
    options = parser.parse_args()
    if options.beside is None:
        measure()
    else:
        print(describe(options.beside, read_record()))


def measure() -> None:
    """Trains the seeds that have no score yet, and writes each score when it is there."""
    from configs import digits

    settings = settings_of(json.loads(digits.get_config().to_json_best_effort()))
    python = ".".join(platform.python_version_tuple()[:2])
    record = read_record()
    if record["settings"] != settings:
        record = {"settings": settings, "by_python": {}}
    found = record["by_python"].setdefault(python, provenance() | {"scores": {}})
    for seed in range(NUM_SEEDS):
        if str(seed) in found["scores"]:
            continue
        summary = train(seed, RUNS / python / str(seed))
        found["raw_pixels"] = summary["knn_raw_pixels"]
        found["scores"][str(seed)] = summary["knn_trained"]
        draft = PATH.with_suffix(".tmp")
        draft.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(draft, PATH)
        print(f"Python {python}, seed {seed}: {summary['knn_trained']:.2%}", flush=True)
    print("\n".join(lines_of(record)))


def train(seed: int, workdir: Path) -> dict[str, Any]:
    """Runs the demo with this seed, in a process of its own; returns its summary."""
    command = [sys.executable, "main.py", "--config=configs/digits.py"]
    command += [f"--config.seed={seed}", f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads((workdir / "summary.json").read_text())


def describe(workdir: Path, record: dict[str, Any]) -> str:
    """A run's score, and those of the ten seeds if they had the same settings."""
    summary = workdir / "summary.json"
    if not summary.exists():
        sys.exit(f"error: {workdir} is not finished: run make demo again")
    facts = next(workdir.glob("checkpoints/*/facts/metadata"))
    settings = settings_of(json.loads(facts.read_text())["facts"]["config"])
    if settings != record["settings"] or not (lines := lines_of(record)):
        lines = ["these settings have not been measured over ten seeds"]
    score = json.loads(summary.read_text())["knn_trained"]
    return "\n  ".join([f"knn trained: {score:.2%} in this run", *lines])


def lines_of(record: dict[str, Any]) -> list[str]:
    """Mean and deviation for each Python that all ten seeds were measured with."""
    lines = []
    for python, found in sorted(record["by_python"].items()):
        scores = [100 * score for score in found["scores"].values()]
        if len(scores) == NUM_SEEDS:
            lines.append(
                f"ten seeds: {statistics.mean(scores):.2f} ± "
                f"{statistics.stdev(scores):.2f} %, lowest {min(scores):.2f} "
                f"(Python {python}, jax {found['versions']['jax']}); "
                f"raw pixels {100 * found['raw_pixels']:.2f}"
            )
    return lines


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the score of a config read from JSON, but for its seed."""
    from flax.traverse_util import flatten_dict

    from invariance_propagation.train.messages import what_trains

    known, decides = flatten_dict(config, sep="."), set(what_trains(config)) - {"seed"}
    decides |= {x for x in known if x == "train.epochs" or x.startswith("knn.")}
    return {name: known[name] for name in sorted(decides)}


def read_record() -> dict[str, Any]:
    if not PATH.exists():
        return {"settings": None, "by_python": {}}
    return json.loads(PATH.read_text())


if __name__ == "__main__":
    main()
