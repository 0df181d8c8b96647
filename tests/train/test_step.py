"""A whole step: the same on any number of devices and in any runner."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import devices, parallel
from invariance_propagation.data.views.augment import normalize
from invariance_propagation.methods import Moment
from invariance_propagation.methods.invariance_propagation import readiness
from invariance_propagation.methods.measures import mean_similarity
from invariance_propagation.tasks.plan.collectives import collectives_of, size_of
from tests import tiny

NUM_STEPS = 20
# Sums over devices are added in another order, and 20 steps of SGD carry that
# rounding on. Unlike losses the graph is discrete: it is compared exactly.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


def take_alone(**options: Any) -> tuple[Any, list[dict[str, float]]]:
    """One device that holds everything: no axis, no collectives."""
    parts = tiny.make_parts(None, **options)
    step = jax.jit(parts.step)
    state, metrics = parts.init(jax.random.key(0)), []
    for indices in tiny.batches(NUM_STEPS):
        state, found = step(state, indices, parts.images, {})
        metrics.append({name: float(x) for name, x in found.items()})
    return jax.device_get(state), metrics


@pytest.fixture(scope="module")
def alone() -> tuple[Any, list[dict[str, float]]]:
    return take_alone()


def check(result: tuple[Any, list], expected: tuple[Any, list]) -> None:
    (state, metrics), (expected_state, expected_metrics) = result, expected
    for found, wanted in zip(metrics, expected_metrics, strict=True):
        for name in wanted:
            np.testing.assert_allclose(
                found[name], wanted[name], err_msg=name, **TOLERANCE
            )
    np.testing.assert_array_equal(state.memory.graph, expected_state.memory.graph)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **TOLERANCE),
        (state.params, state.batch_stats, state.opt_state, state.memory.bank),
        (
            expected_state.params,
            expected_state.batch_stats,
            expected_state.opt_state,
            expected_state.memory.bank,
        ),
    )
    assert state.step == NUM_STEPS


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", devices.MODES)
def test_devices_and_runners_agree(alone, mode: str, num_devices: int) -> None:
    check(tiny.run_mapped(mode, num_devices, NUM_STEPS), alone)


@pytest.mark.parametrize("mode", devices.MODES)
def test_a_start_by_itself_is_the_same_on_all_devices(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These few steps keep little more than chance would: 4 of 92 and the 2 % below.
    monkeypatch.setattr(readiness, "STRAYS", 0.0)
    options = {"start": "auto", "start_overlap": 0.02}
    expected = take_alone(**options)
    result = tiny.run_mapped(mode, 4, NUM_STEPS, **options)
    check(result, expected)
    found, wanted = (state.memory.readiness for state, _ in (result, expected))
    assert found.since == wanted.since
    assert tiny.STEPS_PER_EPOCH < found.since < NUM_STEPS
    np.testing.assert_allclose(found.overlap, wanted.overlap, **TOLERANCE)


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", devices.MODES)
def test_a_sharded_graph_changes_no_number(alone, mode: str, num_devices: int) -> None:
    result = tiny.run_mapped(mode, num_devices, NUM_STEPS, graph="sharded")
    check(result, alone)
    np.testing.assert_array_equal(result[0].memory.graph, alone[0].memory.graph)


def test_vmap_agrees(alone) -> None:
    num_devices = 4
    parts = tiny.make_parts(parallel.AXIS)
    axes = jax.tree.map(
        lambda spec: None if spec == parallel.REPLICATED else 0, parts.spec
    )
    step = jax.jit(
        jax.vmap(
            parts.step,
            in_axes=(axes, 0, None, None),
            out_axes=(axes, None),
            axis_name=parallel.AXIS,
        )
    )
    state, metrics = parts.init(jax.random.key(0)), []
    rows = -(-tiny.NUM_EXAMPLES // num_devices)
    bank = jnp.pad(
        state.memory.bank, ((0, rows * num_devices - tiny.NUM_EXAMPLES), (0, 0))
    ).reshape(num_devices, rows, -1)
    state = state._replace(memory=state.memory._replace(bank=bank))
    for indices in tiny.batches(NUM_STEPS):
        state, found = step(state, indices.reshape(num_devices, -1), parts.images, {})
        metrics.append({name: float(x) for name, x in found.items()})
    state = jax.device_get(state)
    bank = state.memory.bank.reshape(-1, 8)[: tiny.NUM_EXAMPLES]
    state = state._replace(memory=state.memory._replace(bank=bank))
    check((state, metrics), alone)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_the_loss_falls_and_propagation_waits_for_its_epoch(form: str) -> None:
    _, metrics = tiny.run_mapped("pmap", 2, 8 * tiny.STEPS_PER_EPOCH, form=form)
    for step, row in enumerate(metrics):
        weight = 0.6 if step >= tiny.STEPS_PER_EPOCH else 0.0
        expected = row["instance"] + weight * row["propagation"]
        np.testing.assert_allclose(row["loss"], expected, rtol=1e-6)
    first = np.mean([row["instance"] for row in metrics[:5]])
    last = np.mean([row["instance"] for row in metrics[-5:]])
    assert last < 0.7 * first


def test_gradients_are_those_of_the_mean_loss() -> None:
    """Not D times as large, which a runner could make them without a sign."""
    one = tiny.run_mapped("pmap", 1, 1)[1][0]["gradient_norm"]
    for mode in devices.MODES:
        many = tiny.run_mapped(mode, 8, 1)[1][0]["gradient_norm"]
        np.testing.assert_allclose(many, one, rtol=1e-5)


def test_the_step_is_traced_once_through_the_switch() -> None:
    traces = []

    def view(keys: jax.Array, images: jax.Array) -> jax.Array:
        traces.append(images.shape)
        return normalize(images, mean=(0.5,), std=(0.25,), size=8)

    tiny.run_mapped("pmap", 2, 1, view=view)
    once = len(traces)
    traces.clear()
    tiny.run_mapped("pmap", 2, 2 * tiny.STEPS_PER_EPOCH, view=view)
    assert len(traces) == once


def test_state_keeps_its_place_and_is_donated() -> None:
    runner = devices.make_runner("pmap", 4)
    parts = tiny.make_parts(parallel.AXIS)
    step, state = tiny.start(runner, parts)
    before = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.spec), state)
    indices = runner.put(tiny.batches(1)[0], parallel.SHARDED)
    after, _ = step(state, indices, runner.put(parts.images, parallel.REPLICATED), {})
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.spec), after) == before
    assert state.memory.bank.is_deleted() and after.memory.bank.shape[0] == 4


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_no_collective_carries_the_bank_or_a_list(
    mode: str, form: str, optimized: None
) -> None:
    """Read from the compiled program, with sizes that cannot be mistaken."""
    num_devices, num_examples, dim, background = 4, 4096, 32, 1024
    options = {
        "num_examples": num_examples,
        "dim": dim,
        "background_size": background,
        "form": form,
    }
    parts = tiny.make_parts(parallel.AXIS, **options)

    moment = Moment(jnp.int32(99), jnp.int32(9), jax.random.key(0))

    def objective(embeddings, indices, memory):
        def total(embeddings):
            outputs = type("Outputs", (), {"embedding": embeddings})
            batch = type("Batch", (), {"indices": indices})
            loss, aux = parts.method.loss(outputs, batch, memory, moment)
            return loss.sum(), (outputs.embedding, aux)

        gradient, (_, aux) = jax.grad(total, has_aux=True)(embeddings)
        outputs = type("Outputs", (), {"embedding": embeddings})
        batch = type("Batch", (), {"indices": indices})
        memory = parts.method.update(memory, outputs, batch, aux, {}, moment)
        return gradient, memory

    runner = devices.make_runner(mode, num_devices)
    spec = parts.spec.memory
    mapped = runner.compile(
        objective,
        (parallel.SHARDED, parallel.SHARDED, spec),
        (parallel.SHARDED, spec),
    )
    memory = runner.create(parts.method.init_memory, spec, jax.random.key(0), {})
    embeddings = runner.put(np.ones((16, dim), np.float32), parallel.SHARDED)
    indices = runner.put(np.arange(16, dtype=np.int32), parallel.SHARDED)
    text = mapped.lower(embeddings, indices, memory).compile().as_text()
    sizes = [size_of(x) for found in collectives_of(text) for x in found.arrays]
    slots = 3 + 9
    assert sizes, "the program has no collectives: the test reads it wrongly"
    # Own sums of the slots are the largest that may travel: [B, slots].
    assert max(sizes) <= 16 * max(slots, dim) < 16 * background


def test_the_memory_is_written_in_place(optimized: None) -> None:
    """XLA copies what it is to write wherever reading might come after writing."""
    num_examples, dim = 4096, 8
    parts = tiny.make_parts(parallel.AXIS, num_examples=num_examples)
    runner = devices.make_runner("shard_map", 2)
    step, state = tiny.start(runner, parts)
    indices = runner.put(tiny.batches(1)[0], parallel.SHARDED)
    images = runner.put(parts.images, parallel.REPLICATED)
    text = step.lower(state, indices, images, {}).compile().as_text()
    rows, batch = num_examples // 2, len(tiny.batches(1)[0])
    for large in (
        f"f32[{rows},{dim}]",
        f"s32[{num_examples},3]",
        f"f32[{batch},{rows}]",
    ):
        assert large in text, "the test looks for the wrong shape"
        copies = re.findall(rf"= {re.escape(large)}\S* copy\(", text)
        assert not copies, f"{len(copies)} copies of {large}"


def test_no_device_holds_a_sharded_graph() -> None:
    """A walk of two hops along rows of two devices: a message for each hop."""
    num_examples, batch = 512, len(tiny.batches(1)[0])
    parts = tiny.make_parts(
        parallel.AXIS, num_examples=num_examples, graph="sharded", num_hops=2
    )
    runner = devices.make_runner("shard_map", 2)
    step, state = tiny.start(runner, parts)
    indices = runner.put(tiny.batches(1)[0], parallel.SHARDED)
    images = runner.put(parts.images, parallel.REPLICATED)
    text = step.lower(state, indices, images, {}).compile().as_text()
    assert f"s32[{num_examples // 2},3]" in text
    assert f"s32[{num_examples},3]" not in text
    sent = [x for found in collectives_of(text) for x in found.arrays]
    sizes = [size_of(x) for x in sent if x.startswith("s32")]
    assert {batch * 3, batch * 3**2} <= set(sizes)
    assert max(sizes) < num_examples // 2 * 3


@pytest.mark.parametrize("devices", [1, 4])
def test_similarity_is_the_mean_cosine_of_all_pairs(devices: int) -> None:
    rows = np.random.default_rng(3).normal(1.0, 1.0, (24, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    of_devices = jax.vmap(
        functools.partial(mean_similarity, axis_name="device"), axis_name="device"
    )
    found = of_devices(rows.reshape(devices, -1, 5))
    np.testing.assert_allclose(found, (rows @ rows.T).mean(), rtol=1e-5)
    same = np.tile(rows[:1], (24, 1)).reshape(devices, -1, 5)
    np.testing.assert_allclose(of_devices(same), 1.0, rtol=1e-5)
    assert np.all(of_devices(np.zeros_like(same)) == 0)
