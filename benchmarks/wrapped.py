"""Times a step of a method alone and inside of Un-Mix: their ratio, and their memory.

    python benchmarks/wrapped.py --examples=1347
    python benchmarks/wrapped.py --examples=60000 --batch=128

The network and the views are those of configs/digits.py, the images N repeated digits. Both
steps take turns, so that whatever else the machine does slows down both.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
STEPS = 10  # of each in a round; the first of all is not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1347, help="N")
    parser.add_argument("--batch", type=int, default=128, help="B, over all devices")
    parser.add_argument("--inner", default="invariance_propagation", help="the method")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = options.inner, f"unmix+{options.inner}"
    steps = {name: step_of(name, options.examples, options.batch) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, (take, _) in steps.items():
            begun = time.perf_counter()
            for _ in range(STEPS):
                take()
            seconds[name].append((time.perf_counter() - begun) / STEPS)
    for name, (_, planned) in steps.items():
        print(f"{name}: {1000 * np.median(seconds[name]):.1f} ms a step, {planned}")
    alone, wrapped = (np.array(seconds[name]) for name in names)
    ratios = wrapped / alone
    print(
        f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f} in "
        f"{options.rounds} rounds), N = {options.examples:,}, B = {options.batch}"
    )


def step_of(method: str, num_examples: int, batch: int) -> tuple[Callable, str]:
    """Returns what takes a step, and the memory that is planned for it."""
    import jax

    from configs import digits
    from invariance_propagation.data import sources
    from invariance_propagation.tasks.plan.memory import make_plan
    from invariance_propagation.train.build import build
    from invariance_propagation.train.run import init_state

    config = digits.get_config(method)
    config.train.batch_size = batch
    known = sources.find_loader("digits")("").train
    rows = np.arange(num_examples) % len(known.images)
    run = build(config, dataset=sources.Dataset("repeated", known.take(rows), None))
    begun = time.perf_counter()
    plan = make_plan(run)
    compiled = time.perf_counter() - begun
    state: Any = init_state(run)
    given = next(run.input.feed(start=0, stop=1))

    def take() -> None:
        nonlocal state
        state, metrics = run.step(state, *given)
        jax.block_until_ready((state, metrics))

    take()
    megabytes = ", ".join(
        f"{name} {size / 1e6:.1f} MB" for name, size in plan.device.items()
    )
    return take, f"compiled in {compiled:.0f} s; {megabytes}"


if __name__ == "__main__":
    main()
