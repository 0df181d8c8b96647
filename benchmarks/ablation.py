"""Trains several forms of the method over several seeds and tabulates them.

    python benchmarks/ablation.py --config=digits --seeds=6
    python benchmarks/ablation.py --config=fashion_mnist --forms=instance,paper \
        --seeds=1 --set=data.num_train=10000 --set=train.epochs=40

Every cell is one run of main.py in runs/ablation; a cell that is finished is not
run again, and one that was interrupted goes on. Results are written to
benchmarks/results as JSON, and printed as a table in Markdown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tqdm
from provenance import write_result

ROOT = Path(__file__).parent.parent
FORMS = {
    "instance": ["method.propagation_weight=0.0"],
    "released": ["method.form=released"],
    "paper": ["method.form=paper"],
    "easy": ["method.form=paper", "method.positives=easy"],
}
NAMES = {
    "instance": "lambda 0 (instance discrimination)",
    "released": "released form",
    "paper": "paper form",
    "easy": "paper form, easy positives",
}
COLUMNS = {
    "knn_trained": "kNN, features",
    "knn_embedding": "kNN, embeddings",
    "knn_bank": "kNN, bank",
    "purity": "purity",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="digits", help="a file of configs/")
    parser.add_argument("--forms", default=",".join(FORMS), help="which, by commas")
    parser.add_argument("--seeds", type=int, default=6, help="how many, from 0")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for all cells"
    )
    options = parser.parse_args()
    forms = options.forms.split(",")
    unknown = sorted(set(forms) - set(FORMS))
    if unknown:
        parser.error(f"unknown form {unknown[0]!r}: choose from {', '.join(FORMS)}")

    cells = [(form, seed) for seed in range(options.seeds) for form in forms]
    results: dict[str, list[dict[str, Any]]] = {form: [] for form in forms}
    for form, seed in tqdm.tqdm(cells, unit="run"):
        overrides = [*options.set, *FORMS[form], f"seed={seed}"]
        results[form].append(run_cell(options.config, form, seed, overrides))
    path = write_result(f"ablation-{options.config}", {"results": results})
    print(table(results))
    print(f"\nwritten to {path.relative_to(ROOT)}")


def run_cell(config: str, form: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Runs one cell to its end; returns its summary and minutes."""
    workdir = ROOT / "runs" / "ablation" / f"{config}-{form}-{seed}"
    record = workdir / "cell.json"
    if record.exists():
        found = json.loads(record.read_text())
        if found["overrides"] == overrides:
            return found
        sys.exit(
            f"error: {workdir} was run with {' '.join(found['overrides'])}: move it away"
        )
    command = [
        sys.executable,
        "main.py",
        f"--config=configs/{config}.py",
        f"--workdir={workdir}",
        *(f"--config.{override}" for override in overrides),
    ]
    start = time.monotonic()
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{process.stderr.strip()}\nwhile running {' '.join(command)}")
    cell = json.loads((workdir / "summary.json").read_text())
    cell = {name: value for name, value in cell.items() if name != "workdir"}
    cell |= {"seed": seed, "overrides": overrides}
    cell["minutes"] = (time.monotonic() - start) / 60
    record.write_text(json.dumps(cell, indent=2) + "\n")
    return cell


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Mean, and standard deviation over seeds where there are several."""
    lines = [
        "| form | " + " | ".join(COLUMNS.values()) + " | seeds | minutes each |",
        "|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    for form, cells in results.items():
        figures = [spread([cell[name] for cell in cells]) for name in COLUMNS]
        minutes = statistics.mean(cell["minutes"] for cell in cells)
        lines.append(
            f"| {NAMES[form]} | "
            + " | ".join(figures)
            + f" | {len(cells)} | {minutes:.1f} |"
        )
    return "\n".join(lines)


def spread(shares: list[float]) -> str:
    percent = [100 * share for share in shares]
    text = f"{statistics.mean(percent):.1f}"
    return text + (f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else "")


if __name__ == "__main__":
    main()
