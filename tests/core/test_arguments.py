"""Error messages of the public functions for arrays that do not fit."""

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
    with pytest.raises(ValueError, match="^graph has 40 rows and bank has 30: both"):
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
    with pytest.raises(ValueError, match="=(0|-1): set it to 1 or above"):
        init_bank(jax.random.key(0), num_examples, dim)


losses = partial(invp_losses, *(GOOD[name] for name in FUNCTIONS[list(FUNCTIONS)[2]]))
walk = partial(propagate, GOOD["graph"], GOOD["indices"])
move = partial(update_bank, GOOD["bank"], GOOD["indices"], GOOD["embeddings"])
INTEGERS = [
    (walk, "num_hops", 2),
    *((losses, name, 2) for name in ("num_hops", "num_hard", "background_size")),
    (partial(init_graph, num_neighbors=2), "num_examples", 9),
    (partial(init_graph, 9), "num_neighbors", 2),
    (partial(init_bank, jax.random.key(0), dim=4), "num_examples", 9),
    (partial(init_bank, jax.random.key(0), 9), "dim", 4),
]
REALS = [(losses, "temperature", 0.25), (move, "momentum", 0.25)]


def options_of(function: Callable) -> dict[str, int]:
    return {"background_size": 9} if function is losses else {}


@pytest.mark.parametrize(
    "wrong", [2.5, 2.0, "2", None, True, (2,), np.float32(2), 0, -1]
)
@pytest.mark.parametrize(("function", "name", "good"), INTEGERS)
def test_an_option_that_is_no_count_is_named(function, name, good, wrong) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.*(integer|or above)"):
        function(**options_of(function) | {name: wrong})


@pytest.mark.parametrize(
    "wrong", [np.inf, np.nan, "0.2", None, (0.2,), 1j, -1, True, np.True_]
)
@pytest.mark.parametrize(("function", "name", "good"), REALS)
def test_an_option_that_is_no_number_is_named(function, name, good, wrong) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        function(**options_of(function) | {name: wrong})


OF_ANY_KIND = [
    *((*case, kind) for case in INTEGERS for kind in (np.int64, np.int8, jnp.int32)),
    *(
        (*case, kind)
        for case in REALS
        for kind in (np.float64, np.float32, jnp.float32)
    ),
    *((*case, np.array) for case in INTEGERS + REALS),
]


@pytest.mark.parametrize(("function", "name", "good", "kind"), OF_ANY_KIND)
def test_numbers_of_any_kind_are_taken(function, name, good, kind) -> None:
    options = options_of(function)
    found = function(**options | {name: kind(good)})
    expected = function(**options | {name: good})
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_option_that_is_traced_is_named_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"num_hops=\(traced\).*static_argnames"):
        jax.jit(lambda n: walk(num_hops=n))(2)
    with pytest.raises(ValueError, match=r"temperature=\(traced\)"):
        jax.jit(lambda t: losses(background_size=9, temperature=t))(0.2)


@pytest.mark.parametrize("wrong", [2.5, "2", True, (2,), 0])
def test_a_number_of_images_that_is_none_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match="^num_examples=.*(integer|or above)"):
        losses(background_size=9, num_examples=wrong)


@pytest.mark.parametrize("name", ["embeddings", "bank"])
def test_numbers_beyond_float32_are_named(name: str) -> None:
    functions = [f for f, names in FUNCTIONS.items() if name in names]
    for function in functions:
        with pytest.raises(ValueError, match=rf"^{name} holds -1e\+39: .* float32"):
            call(function, **{name: GOOD[name] - 1e39 * (np.arange(D) == 3)})
        call(function, **{name: GOOD[name].astype(np.float64)})
    assert len(functions) == 2


def test_an_id_below_zero_is_no_positive() -> None:
    positives = with_one("positives", -1)
    with pytest.raises(ValueError, match="^positives holds the id -1"):
        distinct(positives, GOOD["indices"])
    with pytest.raises(ValueError, match="^indices holds the id -1"):
        distinct(GOOD["positives"], with_one("indices", -1))
