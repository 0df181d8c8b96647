"""What the public functions say of arrays that do not fit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import (
    distinct,
    init_bank,
    init_graph,
    invp_losses,
    propagate,
    update_bank,
    update_graph,
)

N, D, K, B = 30, 8, 3, 5
RANDOM = np.random.default_rng(0)
GOOD = {
    "graph": RANDOM.integers(0, N, (N, K)).astype(np.int32),
    "indices": np.arange(B),
    "bank": RANDOM.normal(size=(N, D)).astype(np.float32),
    "embeddings": RANDOM.normal(size=(B, D)).astype(np.float32),
    "neighbors": RANDOM.integers(0, N, (B, K)),
    "positives": RANDOM.integers(0, N, (B, K + K * K)),
}
FUNCTIONS: dict[Callable, tuple[str, ...]] = {
    propagate: ("graph", "indices"),
    distinct: ("positives", "indices"),
    partial(invp_losses, background_size=9): ("embeddings", "indices", "bank", "graph"),
    update_bank: ("bank", "indices", "embeddings"),
    update_graph: ("graph", "indices", "neighbors"),
}
CASES = [(f, name) for f, names in FUNCTIONS.items() for name in names]

# `distinct` is not told how many images there are.
OF_IDS = [(f, x) for f, x in CASES if GOOD[x].dtype.kind == "i" and f is not distinct]


def call(function: Callable, **changes: Any) -> Any:
    return function(*({**GOOD, **changes}[name] for name in FUNCTIONS[function]))


def with_one(name: str, value: int) -> np.ndarray:
    array = np.array(GOOD[name])
    array[-1] = value
    return array


@pytest.mark.parametrize("function", FUNCTIONS)
def test_jax_arrays_are_taken_too(function: Callable) -> None:
    expected = call(function)
    found = call(function, **{name: jnp.asarray(x) for name, x in GOOD.items()})
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("wrong", [-1, N, N + 7])
@pytest.mark.parametrize(("function", "name"), OF_IDS)
def test_an_id_of_no_image_is_named(function, name: str, wrong: int, make) -> None:
    message = rf"^{name} holds the id {wrong}, but there are {N} images"
    with pytest.raises(ValueError, match=message):
        call(function, **{name: make(with_one(name, wrong))})


@pytest.mark.parametrize("function", list(FUNCTIONS)[2:])
def test_an_image_twice_is_named(function: Callable) -> None:
    with pytest.raises(ValueError, match="^indices holds the id 0 more than once"):
        call(function, indices=np.array([0, 1, 2, 0, 4]))


@pytest.mark.parametrize(("function", "name"), CASES)
def test_other_dtypes_and_shapes_are_named(function: Callable, name: str) -> None:
    good = GOOD[name]
    is_float = good.dtype.kind == "f"
    for wrong in (bool, complex, int if is_float else float):
        with pytest.raises(ValueError, match=rf"^{name} is "):
            call(function, **{name: good.astype(wrong)})
    for wrong in (good[None], good[..., :0], good[0]):
        with pytest.raises(ValueError, match=rf"^{name} has the shape "):
            call(function, **{name: wrong})


def test_a_graph_of_another_length_than_the_bank_is_named() -> None:
    losses = list(FUNCTIONS)[2]
    graph = np.concatenate([GOOD["graph"], GOOD["graph"][:10]])
    with pytest.raises(ValueError, match=r"^bank has the shape \[30, 8\].* 40 long"):
        call(losses, graph=graph)
    with pytest.raises(ValueError, match=r"^embeddings has the shape .* 8 long"):
        call(losses, embeddings=GOOD["embeddings"][:, :5])


def test_inside_of_jit_shapes_are_checked_and_values_are_not_known() -> None:
    walk = jax.jit(propagate)
    assert walk(GOOD["graph"], GOOD["indices"]).shape == (B, K + K**2 + K**3)
    with pytest.raises(ValueError, match="^graph is float32"):
        walk(GOOD["bank"], GOOD["indices"])
    # A constant of the traced function is known.
    with pytest.raises(ValueError, match="^graph holds the id -1"):
        jax.jit(lambda i: propagate(with_one("graph", -1), i))(GOOD["indices"])


def test_a_graph_needs_more_images_than_neighbors() -> None:
    with pytest.raises(ValueError, match="num_neighbors=4, but there are 4 images"):
        init_graph(4, 4)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_lists_are_taken(function: Callable) -> None:
    found = call(function, **{name: x.tolist() for name, x in GOOD.items()})
    jax.tree.map(np.testing.assert_array_equal, found, call(function))


@pytest.mark.parametrize(("num_examples", "dim"), [(0, 4), (4, 0), (4, -1)])
def test_a_bank_has_rows_and_columns(num_examples: int, dim: int) -> None:
    with pytest.raises(ValueError, match=f"num_examples={num_examples}, dim={dim}"):
        init_bank(jax.random.key(0), num_examples, dim)
