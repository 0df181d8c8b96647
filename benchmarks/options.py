"""What the cheaper ways to look at the bank change: `selection` and `precision`.

    python benchmarks/options.py
    python benchmarks/options.py --examples=1281167 --batch=64

A CPU has neither TPU's approximate top-k nor its bfloat16 passes, so both are imitated
from their definitions: `lax.approx_max_k` sorts the largest of each bin (Chern et al.
2022, arXiv 2206.14286), 'high' splits each float32 into two bfloat16 and leaves out the
product of the lower halves. Their speed is measured by
benchmarks/objective.py --variants=all.
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from provenance import write_result
from steps import (
    BACKGROUND,
    HOPS,
    NEIGHBORS,
    TEMPERATURE,
    problem,
    total_loss,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from invariance_propagation.core import search
from invariance_propagation.core.bank import normalize

RECALL_TARGET, LEAST_BINS = 0.95, 128  # of lax.approx_max_k
TEMPERATURES = (TEMPERATURE, 0.07)


class Way(NamedTuple):
    """A cheaper way to look at the bank."""

    options: dict[str, str]
    multiply: Callable
    select: Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=60_000, help="N")
    parser.add_argument("--batch", type=int, default=256, help="B")
    options = parser.parse_args()
    embeddings, indices, bank, graph = problem(options.examples, options.batch)
    walk_true_neighbors(bank, graph, indices)
    anchors = normalize(embeddings)
    _, wanted = lax.top_k(exact(anchors, bank.T), BACKGROUND)

    rows: list[dict[str, Any]] = []
    for name, way in WAYS.items():
        _, found = way.select(way.multiply(anchors, bank.T), BACKGROUND)
        shared = jax.vmap(jnp.isin)(wanted, found).mean(axis=1)
        row = {"way": name, "overlap": [float(shared.mean()), float(shared.min())]}
        for temperature in TEMPERATURES:
            case = (embeddings, indices, bank, graph)
            right = losses(*case, temperature=temperature)
            with imitation(way):
                cheap = losses(*case, temperature=temperature, **way.options)
            row[f"error at {temperature}"] = error(right, cheap)
        rows.append(row)
        print(json.dumps(row), flush=True)
    record = {"examples": options.examples, "batch": options.batch, "ways": rows}
    print(f"written to {write_result(f'options-{options.examples}', record)}")


def losses(*case: jax.Array, **options: str | float) -> tuple[jax.Array, ...]:
    """Both losses per anchor, and the gradient of their mean to the embeddings."""
    # A function of its own each time: what it traces may be an imitation.
    gradient = jax.grad(lambda *case: total_loss(*case, **options), has_aux=True)
    slope, found = jax.jit(gradient)(*case)
    return found.instance, found.propagation, slope


def error(right, cheap) -> dict[str, float]:
    """Largest and mean error of the losses; of the gradient, relative to its norm."""
    names, result = ("instance", "propagation"), {}
    for name, x, y in zip(names, right, cheap, strict=False):
        result |= {
            name: float(abs(y - x).max()),
            f"{name}, mean": float((y - x).mean()),
        }
    distance = jnp.linalg.norm(cheap[2] - right[2]) / jnp.linalg.norm(right[2])
    return result | {"gradient": float(distance)}


@contextlib.contextmanager
def imitation(way: Way) -> Iterator[None]:
    """The search multiplies and selects `way`'s way while it is traced."""

    def product(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
        del precision
        return way.multiply(a, b)

    with (
        mock.patch.object(search, "_product", product),
        mock.patch.object(lax, "approx_max_k", way.select),
    ):
        yield


def exact(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def one_pass(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = (x.astype(jnp.bfloat16) for x in (a, b))
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def three_passes(a: jax.Array, b: jax.Array) -> jax.Array:
    def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        upper = jnp.asarray(x).astype(jnp.bfloat16)
        return upper, (x - upper.astype(jnp.float32)).astype(jnp.bfloat16)

    (a1, a2), (b1, b2) = halves(a), halves(b)
    return one_pass(a1, b1) + (one_pass(a1, b2) + one_pass(a2, b1))


def bins_top_k(x: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """As TPU's approximate top-k: of each bin of columns only the largest is seen."""
    columns = x.shape[1]
    least = max(math.floor((1 - count) / math.log(RECALL_TARGET)), LEAST_BINS)
    width = 2 ** int(math.log2(columns / min(least, columns)))
    x = jnp.pad(x, ((0, 0), (0, -columns % width)), constant_values=-jnp.inf)
    bins = x.reshape(len(x), width, -1)
    place = jnp.argmax(bins, axis=1)
    values, best = lax.top_k(jnp.max(bins, axis=1), count)
    return values, jnp.take_along_axis(place, best, axis=1) * bins.shape[2] + best


WAYS = {
    "bfloat16": Way({"precision": "bfloat16"}, one_pass, lax.top_k),
    "high": Way({"precision": "high"}, three_passes, lax.top_k),
    "approx": Way({"selection": "approx"}, exact, bins_top_k),
}


def walk_true_neighbors(bank, graph, indices) -> None:
    """Writes the true neighbours of all rows that a walk from `indices` looks up."""
    frontier = indices
    for _ in range(HOPS):
        frontier = np.unique(frontier)
        for start in range(0, len(frontier), 64):
            ids = frontier[start : start + 64]
            graph[ids] = nearest(bank, ids)
        frontier = graph[frontier].reshape(-1)


@jax.jit
def nearest(bank: jax.Array, ids: jax.Array) -> jax.Array:
    similarities = bank[ids] @ bank.T
    similarities = similarities.at[jnp.arange(len(ids)), ids].set(-jnp.inf)
    return lax.top_k(similarities, NEIGHBORS)[1]


if __name__ == "__main__":
    main()
