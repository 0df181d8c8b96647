"""The memory plan beside how far the process really grows.

    python benchmarks/memory.py

Digits, repeated to the wanted number of images, with the network and method of
configs/digits.py. Each size runs in a process of its own, which takes a few steps and
a checkpoint's copy of the state once, so that all is compiled, forgets them, and then
does so again while it is watched.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from objective import forget_peak, peak_resident, resident
from provenance import write_result

# Images, and what else is unlike configs/digits.py.
SIZES = (
    (60_000, {"train.batch_size": 256, "augment.size": 28, "encoder.width": 32}),
    (300_000, {"train.batch_size": 512, "encoder.depth": 50}),
    (1_281_167, {"train.batch_size": 256}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measure(*SIZES[options.child])))
        return
    runs = []
    print(f"{'images':>10}{'planned MB':>12}{'measured MB':>13}{'ratio':>7}  changes")
    for number, size in enumerate(tqdm.tqdm(SIZES, unit="process")):
        command = [sys.executable, __file__, "--child", str(number)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            sys.exit(f"{process.stderr.strip()}\nwhile measuring {size}")
        run = json.loads(process.stdout.splitlines()[-1])
        runs.append(run)
        planned, measured = run["planned_bytes"], run["measured_bytes"]
        tqdm.tqdm.write(
            f"{run['images']:10,}{planned / 1e6:12.0f}{measured / 1e6:13.0f}"
            f"{planned / measured:7.2f}  {run['changes']}"
        )
    worst = max((run["planned_bytes"] / run["measured_bytes"] for run in runs), key=off)
    print(f"planned / measured, worst: {worst:.2f} (goal 0.90 to 1.10)")
    print(f"written to {write_result('memory', {'runs': runs})}")


def off(ratio: float) -> float:
    """Returns how far a ratio is from 1."""
    return abs(ratio - 1)


def measure(num_examples: int, changes: dict[str, int]) -> dict[str, Any]:
    """Planned and measured bytes, the data set on the host not counted."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import jax

    from configs import digits
    from invariance_propagation.data import sources
    from invariance_propagation.parallel import REPLICATED, SHARDED
    from invariance_propagation.tasks.plan import make_plan
    from invariance_propagation.train.build import build
    from invariance_propagation.train.run import init_state

    def repeated(folder: str) -> sources.Dataset:
        digits = sources.find_loader("digits")(folder).train
        rows = np.arange(num_examples) % len(digits.images)
        return sources.Dataset("repeated", digits.take(rows), None)

    sources.LOADERS["repeated"] = repeated
    config = digits.get_config()
    config.data.name = "repeated"
    config.update_from_flattened_dict({"method.background_size": 4096} | changes)
    run = build(config)
    batch_size = run.options.batch_size
    plan = make_plan(run)

    def train() -> None:
        state = init_state(run)
        images = run.runner.put(run.dataset.train.images, REPLICATED)
        for step in range(3):
            indices = np.arange(batch_size, dtype=np.int32) + step * batch_size
            placed = run.runner.put(indices, SHARDED)
            state, _ = run.step(state, placed, images, {})
        host_copy = run.runner.fetch(state, run.spec, num_examples)
        # The copy is written while training goes on.
        jax.block_until_ready(run.step(state, placed, images, {}))
        del host_copy

    train()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    forget_peak()
    train()
    return {
        "images": num_examples,
        "changes": changes,
        "devices": plan.num_devices,
        "planned_bytes": plan.machine - plan.host["data set"],
        "measured_bytes": peak_resident() - before,
        "device": plan.device,
        "host": plan.host,
    }


if __name__ == "__main__":
    main()
