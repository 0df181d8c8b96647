"""A small problem for Un-Mix around Invariance Propagation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.methods import (
    Batch,
    Method,
    Moment,
    Problem,
    make_from,
)
from invariance_propagation.methods.unmix.mixture import (
    Draw,
    draw_mixture,
)
from invariance_propagation.methods.unmix.options import Options
from invariance_propagation.models import Encoder
from tests import tiny

N, B, DIM, SIZE = 40, 8, 8, 8
INVP = {"name": "invariance_propagation", **tiny.METHOD, "background_size": 12}
# `epoch` below is one in which propagation is on.
LOSS = {
    name: INVP[name]
    for name in (
        "num_hops",
        "num_hard",
        "background_size",
        "temperature",
        "form",
        "positives",
    )
}
GROUPS = {"large": (2, 8, 8), "small": (3, 6, 5)}  # views, height, width


def wrap(
    inner: Mapping[str, Any] = INVP, *, axis_name: str | None = None, **options: Any
) -> Method:
    problem = Problem(
        encoder=Encoder(tiny.TinyBackbone(None), "linear", dim=DIM),
        num_examples=N,
        batch_size=B,
        steps_per_epoch=N // B,
        axis_name=axis_name,
        categories={"domain": 2},
    )
    defaults = {"global_probability": 0.5, "alpha": 1.0}
    return make_from(
        {"name": "unmix", **defaults, **options, "inner": inner}, problem, key="method"
    )


def moment(step: int = 0) -> Moment:
    key = jax.random.fold_in(jax.random.key(7), step)
    return Moment(jnp.int32(step), jnp.int32(3), key)


def make_batch(groups: Mapping[str, tuple] = {"view": (1, SIZE, SIZE)}) -> Batch:
    random = np.random.default_rng(3)
    return Batch(
        indices=jnp.asarray(random.permutation(N)[:B].astype(np.int32)),
        views={
            name: jnp.asarray(random.normal(size=(count, B, *size, 1)), jnp.float32)
            for name, (count, *size) in groups.items()
        },
        columns={"domain": jnp.asarray(random.integers(0, 2, B), jnp.int32)},
        keys=jax.random.split(jax.random.key(1), B),
    )


def data(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


def draw_like(key: jax.Array, options: Options) -> Draw:
    return jax.tree.map(np.asarray, draw_mixture(key, options))


def problem_of(method: Method) -> Problem:
    return Problem(method.encoder, N, B, N // B, None)
