"""The method split over devices: the same numbers on 1, 2, 4 and 8 of them, under vmap, pmap and shard_map.

29 images: padded to 30 on two devices, to 32 on four and eight.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from invariance_propagation import (
    Losses,
    devices,
    invp_losses,
    parallel,
    update_bank,
    update_graph,
)
from tests import tiny
from tests.reference import objective as oracle

FORMS = ("paper", "released")
EVERY_RUNNER = pytest.mark.parametrize("runner", ["vmap", "pmap", "shard_map"])
OPTIONS = dict(
    num_hops=2, num_hard=5, background_size=20, temperature=0.2, positives="hard"
)
# All positives are taken: among tied ones the choice of P would be arbitrary.
TIED_OPTIONS = OPTIONS | dict(background_size=13, num_hard=50)


class Step(NamedTuple):
    """What one device returns; the graph gets a leading axis of one, so that the copies of all devices can be compared."""

    per_image: dict[str, dict[str, jax.Array]]  # [b, ...], of either form
    bank: jax.Array  # [Np / D, d]
    graph: jax.Array  # [1, N, k]


def one_step(
    embeddings: jax.Array,
    indices: jax.Array,
    bank: jax.Array,
    graph: jax.Array,
    *,
    axis_name: str | None,
    **options: Any,
) -> Step:
    global_batch = len(embeddings) * (
        1 if axis_name is None else jax.lax.axis_size(axis_name)
    )
    per_image = {}
    for form in FORMS:

        def total(embeddings: jax.Array, form: str = form) -> tuple[jax.Array, Losses]:
            losses = invp_losses(
                embeddings,
                indices,
                bank,
                graph,
                form=form,
                axis_name=axis_name,
                **options,
            )
            return jnp.sum(
                losses.instance + 0.6 * losses.propagation
            ) / global_batch, losses

        gradient, losses = jax.grad(total, has_aux=True)(embeddings)
        per_image[form] = dict(
            instance=losses.instance,
            propagation=losses.propagation,
            neighbors=losses.neighbors,
            gradient=gradient,
        )
    new_graph = update_graph(graph, indices, losses.neighbors, axis_name=axis_name)
    return Step(
        per_image,
        update_bank(bank, indices, embeddings, axis_name=axis_name),
        new_graph[None],
    )


def split(array: np.ndarray, num_devices: int) -> np.ndarray:
    return array.reshape(num_devices, -1, *array.shape[1:])


def merge(array: jax.Array) -> np.ndarray:
    return np.asarray(array).reshape(-1, *array.shape[2:])


def over_devices(
    runner: str, num_devices: int, function: Callable, *, num_shared: int = 1
) -> Callable:
    """Maps `function(embeddings, indices, bank, graph, ...)`: it splits the first three and shares the rest.

    The result takes and returns global arrays; whatever the devices return is stacked along its first axis.
    """
    devices = jax.devices()[:num_devices]
    if runner == "shard_map":
        mapped = jax.shard_map(
            function,
            mesh=Mesh(np.array(devices), ("batch",)),
            in_specs=(P("batch"),) * 3 + (P(),) * num_shared,
            out_specs=P("batch"),
            check_vma=False,
        )
    elif runner == "vmap":
        in_axes = (0, 0, 0) + (None,) * num_shared
        mapped = jax.vmap(function, in_axes=in_axes, axis_name="batch")
    else:
        in_axes = (0, 0, 0) + (None,) * num_shared
        mapped = jax.pmap(function, "batch", in_axes=in_axes, devices=devices)
    compiled = mapped if runner == "pmap" else jax.jit(mapped)

    def run(embeddings: np.ndarray, indices: np.ndarray, bank: np.ndarray, *shared):
        bank = np.pad(bank, ((0, -len(bank) % num_devices), (0, 0)))
        if runner == "shard_map":
            out = compiled(embeddings, indices, bank, *shared)
            return jax.tree.map(np.asarray, out)
        parts = (split(x, num_devices) for x in (embeddings, indices, bank))
        return jax.tree.map(merge, compiled(*parts, *shared))

    return run


@functools.cache
def undivided(**options: Any) -> Callable:
    """Takes a step on one device that holds everything, without an axis."""
    return jax.jit(functools.partial(one_step, axis_name=None, **options))


@functools.cache
def divided(runner: str, num_devices: int, **options: Any) -> Callable:
    """Takes the same step over devices."""
    function = functools.partial(one_step, axis_name="batch", **options)
    return over_devices(runner, num_devices, function)


def assert_same_step(got: Step, expected: Step) -> None:
    for form in FORMS:
        for name, value in expected.per_image[form].items():
            part = got.per_image[form][name]
            if name == "neighbors":
                np.testing.assert_array_equal(part, value)
            else:
                np.testing.assert_allclose(part, value, rtol=1e-6, atol=1e-6)
    rows = len(expected.bank)
    np.testing.assert_allclose(got.bank[:rows], expected.bank, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(got.bank[rows:], 0)
    for copy in got.graph:  # replicated: every device must hold the same
        np.testing.assert_array_equal(copy, expected.graph[0])


@EVERY_RUNNER
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_result_does_not_depend_on_devices(
    make_problem, runner: str, num_devices: int
) -> None:
    # A batch of 24: three images on each of eight devices. M = 20 of 29 puts the edge of the background at a negative
    # similarity, where a zero row of padding would be let in.
    problem = make_problem(61, num_examples=29, batch=24)
    result = divided(runner, num_devices, **OPTIONS)(*problem)
    assert result.graph.shape == (num_devices, 29, 4)
    assert_same_step(result, undivided(**OPTIONS)(*problem))


def objective(
    weights: jax.Array,
    inputs: jax.Array,
    *arrays: jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    total = 0.0
    for form in FORMS:
        losses = invp_losses(
            inputs @ weights, *arrays, form=form, axis_name=axis_name, **OPTIONS
        )
        total += jnp.mean(losses.instance + 0.6 * losses.propagation)
    return total


@functools.cache
def undivided_objective() -> Callable:
    return jax.jit(jax.value_and_grad(objective))


@EVERY_RUNNER
def test_gradient_of_shared_weights(make_problem, runner: str) -> None:
    # As in training: the encoder is shared, each device differentiates the mean over all, and the gradients are averaged.
    problem = make_problem(62, num_examples=29, batch=8, dim=5)
    noise = np.random.default_rng(62).normal(size=(5, 5))
    weights = (np.eye(5) + 0.1 * noise).astype(np.float32)

    def step(inputs, indices, bank, graph, weights):
        def global_mean(weights: jax.Array) -> jax.Array:
            local = objective(weights, inputs, indices, bank, graph, axis_name="batch")
            return jax.lax.pmean(local, "batch")

        value, gradient = jax.value_and_grad(global_mean)(weights)
        return value[None], jax.lax.pmean(gradient, "batch")[None]

    values, gradients = over_devices(runner, 4, step, num_shared=2)(*problem, weights)
    value, gradient = undivided_objective()(weights, *problem)
    np.testing.assert_allclose(values, np.full(4, value), rtol=1e-6, atol=1e-6)
    for copy in gradients:
        np.testing.assert_allclose(copy, gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_devices", [4, 8])
def test_padding_is_never_seen(make_problem, num_devices: int, optimized: None) -> None:
    # All rows on one side and all embeddings on the other: every similarity is negative, so a zero row would be the nearest of all.
    problem = make_problem(63, num_examples=29, batch=8)
    axis = np.eye(8, dtype=np.float32)[0]
    problem = problem._replace(
        bank=0.3 * problem.bank + axis, embeddings=0.1 * problem.embeddings - axis
    )
    for x in problem.embeddings:
        assert oracle.similarities(x, problem.bank).max() < 0
    result = divided("vmap", num_devices, **TIED_OPTIONS)(*problem)
    assert_same_step(result, undivided(**TIED_OPTIONS)(*problem))
    assert result.graph.max() < 29


@pytest.mark.parametrize("levels", [[-0.5, 0.0, 0.25], [0.5]])
def test_ties_do_not_depend_on_devices(make_tied_problem, levels: list[float]) -> None:
    problem = make_tied_problem(levels, num_examples=29, batch=8)
    result = divided("vmap", 4, **TIED_OPTIONS)(*problem)
    assert_same_step(result, undivided(**TIED_OPTIONS)(*problem))


def test_low_temperature_on_devices(make_problem) -> None:
    # The sum over the background is put together from devices whose shares differ by factors up to e^200.
    problem = make_problem(65, num_examples=29, batch=8, anchors="far")
    options = OPTIONS | dict(temperature=0.01)
    result = divided("vmap", 4, **options)(*problem)
    for form in FORMS:
        got = result.per_image[form]
        expected = oracle.losses(*problem, form=form, **options)
        for name in ("instance", "propagation"):
            np.testing.assert_allclose(
                got[name], getattr(expected, name), rtol=3e-5, atol=3e-5
            )
        gradient = expected.instance_gradient + 0.6 * expected.propagation_gradient
        tolerance = 3e-5 * np.abs(gradient).max()
        np.testing.assert_allclose(got["gradient"] * 8, gradient, atol=tolerance)


def test_too_large_a_background_is_an_error_on_devices(make_problem) -> None:
    # The padded bank has 32 rows, so 30 fit into it; there are only 29 images.
    problem = make_problem(64, num_examples=29, batch=8)
    with pytest.raises(ValueError, match="background_size"):
        divided("vmap", 4, **OPTIONS | dict(background_size=30))(*problem)


@pytest.mark.parametrize(
    ("length", "devices", "platform", "rows"),
    [
        (1_281_167, 4, "cpu", 320_292),
        (1_281_167, 4, "tpu", 320_320),  # 64 * 5005
        (1_281_167, 4, "gpu", 320_512),  # 512 * 626
        (1_281_280, 4, "tpu", 320_320),
        (4 * 4095, 4, "tpu", 4095),  # too few to matter
        (4 * 4096, 4, "tpu", 4096 + 64),
    ],
)
def test_shards_have_the_length_that_their_platform_likes(
    length: int, devices: int, platform: str, rows: int
) -> None:
    assert parallel.rows_per_device(length, devices, platform) == rows


@pytest.mark.parametrize("mode", devices.MODES)
def test_more_padding_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    expected, wanted = tiny.run_mapped(mode, 4, 4)
    monkeypatch.setattr(parallel, "LARGE", 8)  # more than a batch has
    monkeypatch.setattr(devices.Runner, "platform", "tpu")
    runner = devices.make_runner(mode, 4)
    put = runner.put(np.ones((93, 3), np.float32), parallel.SHARDED)
    assert put.size == 4 * 64 * 3
    state, metrics = tiny.run_mapped(mode, 4, 4)
    for row, right in zip(metrics, wanted, strict=True):
        for name, value in right.items():
            np.testing.assert_allclose(row[name], value, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(state.memory.graph, expected.memory.graph)
    np.testing.assert_allclose(state.memory.bank, expected.memory.bank, atol=2e-6)
