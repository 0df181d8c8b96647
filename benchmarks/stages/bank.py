"""The objective over the bank, beside what the device can do at best."""

import argparse
from typing import Any

import objective as bench

from stages.card import card, times_of

VARIANTS = ("pytorch", "pytorch-compiled", "products", "released", "paper")
SHOWN = ("seconds", "peak_bytes", "compiled_bytes", "backend")


def objective(options: argparse.Namespace, *, examples: int) -> dict[str, Any]:
    """Times the objective beside PyTorch, as written and compiled, and the two products."""
    found: dict[str, Any] = {"examples": 5000 if options.small else examples}
    for batch in (32,) if options.small else (128, 256, 1024):
        chosen = argparse.Namespace(examples=found["examples"], batch=batch, devices=1)
        found[f"B={batch}"] = {name: _one(name, chosen) for name in VARIANTS}
    return found


def _one(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    try:
        run = bench.start_child(name, chosen)
    except SystemExit as error:  # out of memory, or no compiler for PyTorch's
        lines = str(error).splitlines()
        return {"failed": lines[-2] if len(lines) > 1 else str(error)}
    if run is None:
        return {"left_out": "PyTorch is not installed"}
    return {key: run[key] for key in SHOWN}


def peaks(options: argparse.Namespace) -> dict[str, Any]:
    """Measures the memory's bandwidth, and the speed of products of each precision."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    length, width = (2**16, 256) if options.small else (2**28, 8192)
    array = jnp.ones(length, jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)
    found = card() | {
        "gigabytes_per_second": 2 * array.nbytes / fastest(copy, array) / 1e9
    }
    for dtype, precision in (
        (jnp.bfloat16, lax.Precision.DEFAULT),
        (jnp.float32, lax.Precision.HIGH),
        (jnp.float32, lax.Precision.HIGHEST),
    ):
        square = jnp.ones((width, width), dtype)
        product = jax.jit(lambda x, y=precision: jnp.matmul(x, x, precision=y))
        name = f"teraflops_{jnp.dtype(dtype).name}_{precision.name.lower()}"
        found[name] = 2 * width**3 / fastest(product, square) / 1e12
    return found


def fastest(run: Any, given: Any) -> float:
    """Returns the seconds of the fastest call."""
    import jax

    return min(times_of(lambda: jax.block_until_ready(run(given))))
