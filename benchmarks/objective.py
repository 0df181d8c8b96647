"""Time and memory of the objective over the bank, beside eager PyTorch.

    python benchmarks/objective.py                       # N = 60,000
    python benchmarks/objective.py --examples=1281167

One step: both losses, their gradient to the embeddings, the new graph and bank rows.
Every variant runs in a process of its own, several times in turn, so that a ratio
compares neighbours in time. PyTorch (`pip install torch`) runs the authors' formulas
on the same accelerator; without it its ratios are left out. Goals are printed beside
the ratios and never asserted.
"""

import argparse
import gc
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tqdm
from provenance import write_result
from steps import Step, jax_step, problem, products_step, torch_step

sys.path.insert(0, str(Path(__file__).parents[1]))

TORCH, COMPILED, PRODUCTS = "pytorch", "pytorch-compiled", "products"
VARIANTS = {
    TORCH: {},
    PRODUCTS: {},
    "released": {"form": "released"},
    "paper": {"form": "paper"},
    "paper-high": {"precision": "high"},
    "paper-bfloat16": {"precision": "bfloat16"},
    "paper-approx": {"selection": "approx"},
    COMPILED: {"compiled": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=60_000, help="N")
    parser.add_argument("--batch", type=int, default=256, help="B, over all devices")
    parser.add_argument("--devices", type=int, help="default: as main.py")
    parser.add_argument("--rounds", type=int, default=3, help="processes per variant")
    parser.add_argument("--variants", default=",".join(list(VARIANTS)[:4]))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return

    names = options.variants.split(",") if options.variants != "all" else [*VARIANTS]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}: choose from {[*VARIANTS]}")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    turns = [name for _ in range(options.rounds) for name in names]
    for name in tqdm.tqdm(turns, unit="process"):
        runs[name].append(start_child(name, options))
    runs = {name: [run for run in found if run] for name, found in runs.items()}
    runs = {name: found for name, found in runs.items() if found}
    print(table(runs, options.examples))
    if TORCH in names and TORCH not in runs:
        print("PyTorch is not installed: its ratios need pip install torch")
    backend = next(run[0]["backend"] for name, run in runs.items() if name != TORCH)
    record = {name: getattr(options, name) for name in ("examples", "batch")}
    path = write_result(
        f"objective-{backend}-{options.examples}", record | {"runs": runs}
    )
    print(f"written to {path}")


def start_child(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--child", name]
    command += [f"--examples={options.examples}", f"--batch={options.batch}"]
    if options.devices is not None:
        command += [f"--devices={options.devices}"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    if "No module named 'torch'" in process.stderr:
        return None
    sys.exit(f"{process.stderr.strip()}\nwhile measuring {name!r}")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a step, and how far it made the memory grow."""
    if name in (TORCH, COMPILED):
        import torch

        backend = "gpu" if torch.cuda.is_available() else "cpu"
        make_step = torch_step
    else:
        import jax

        from invariance_propagation import devices

        if options.devices is not None:
            devices.split_cpu(options.devices)
        devices.one_cpu_device_per_core(options.batch)
        backend = jax.default_backend()
        make_step = products_step if name == PRODUCTS else jax_step
    before = resident()
    step = make_step(*problem(options.examples, options.batch), **VARIANTS[name])
    forget_peak()
    step.take(), step.take()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < 5 and len(times) < 50):
        start = time.perf_counter()
        step.take()
        times.append(time.perf_counter() - start)
    grown = peak_resident() - before
    return {
        "backend": backend,
        "seconds": statistics.median(times),
        "steps": len(times),
        "peak_bytes": step.peak() or grown,
        **compiled_facts(step),
    }


def compiled_facts(step: Step) -> dict[str, Any]:
    """What the compiler says: bytes, and what every collective yields on each device."""
    from invariance_propagation.tasks.plan.collectives import collectives_of

    compiled = step.compiled()
    if compiled is None:
        return {"compiled_bytes": None, "traffic": []}
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    traffic = [
        {
            "kind": collective.kind,
            "arrays": list(collective.arrays),
            "bytes": collective.num_bytes,
            "in_loop": collective.is_in_loop,
        }
        for collective in collectives_of(compiled.as_text())
    ]
    return {"compiled_bytes": held, "traffic": traffic}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Resets the peak memory that Linux reports, so that making the problem does not count."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def table(runs: dict[str, list[dict[str, Any]]], examples: int) -> str:
    """Medians over rounds; ratios are taken round by round."""

    def ratio(above: str, below: str, what: str) -> float | None:
        if above not in runs or below not in runs:
            return None
        pairs = zip(runs[above], runs[below], strict=True)
        return statistics.median(a[what] / b[what] for a, b in pairs)

    lines = [
        f"N = {examples:,}; medians of {len(next(iter(runs.values())))} processes",
        f"{'':18}{'ms':>9}{'peak MB':>9}{'x PyTorch':>11}{'x products':>12}"
        f"{'memory / PyTorch':>18}",
    ]
    for name, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        peak = statistics.median(run["peak_bytes"] for run in found)
        faster, slower = ratio(TORCH, name, "seconds"), ratio(name, PRODUCTS, "seconds")
        memory = ratio(name, TORCH, "peak_bytes")
        lines.append(
            f"{name:18}{1000 * seconds:9.1f}{peak / 1e6:9.0f}{number(faster):>11}"
            f"{number(slower):>12}{number(memory):>18}"
        )
    speed, memory = (3.0, None) if examples < 300_000 else (2.5, 0.5)
    goals = [
        ("times faster than PyTorch", ratio(TORCH, "paper", "seconds"), ">=", speed),
        ("memory of PyTorch's", ratio("paper", TORCH, "peak_bytes"), "<=", memory),
        ("paper / released", ratio("paper", "released", "seconds"), "<=", 1.25),
    ]
    for text, found, relation, goal in goals:
        wanted = "no goal at this size" if goal is None else f"goal {relation} {goal}"
        lines.append(f"{text}: {number(found)} ({wanted})")
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
