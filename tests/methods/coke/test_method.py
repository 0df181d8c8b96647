"""Whole steps of CoKe against an oracle with loops, on any number of devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import devices, parallel
from invariance_propagation.methods.coke import Memory
from tests.methods.coke import made
from tests.methods.coke.made import SIZES, STEPS_PER_EPOCH, N
from tests.reference import coke as oracle

# For each kind of views: options of the method, and of `made.passes`.
KINDS = {
    "one": ({"views": "one", "average_from": 2}, {"views": 1}),
    # Three labels in two slots: one gives way.
    "one_few": ({"views": "one", "average_from": 2, "num_slots": 2}, {"views": 1}),
    "two": ({"views": "two"}, {"views": 2}),
    "multi_crop": ({"views": "multi_crop"}, {"views": 2, "small": 3}),
}
BALANCED = {"least_size": 1.0, "dual_rate": 0.3}
EPOCHS = 5


def oracle_of(memory: Memory) -> list[oracle.Head]:
    return [
        oracle.Head(
            pre=np.array(head.fixed, float),
            cur=np.array(head.moving, float),
            label=np.full(N, -1),
            slots=[{} for _ in range(N)],
        )
        for head in memory.heads
    ]


def oracle_options(changes: dict[str, Any]) -> oracle.Options:
    options = made.OPTIONS | changes
    return oracle.Options(
        eta=options["dual_rate"],
        gamma=options["least_size"],
        tau=options["temperature"],
        alpha=options["hard_weight"],
        beta=options["prediction_weight"],
        large=options["large_weight"],
        num_slots=options["num_slots"],
        stage=options["average_from"] if options["views"] == "one" else 10**9,
    )


@pytest.mark.parametrize("more", [{}, BALANCED], ids=["bounded", "balanced"])
@pytest.mark.parametrize("kind", KINDS)
def test_epochs_are_the_oracles(kind: str, more: dict[str, float]) -> None:
    changes, views = KINDS[kind]
    changes = changes | more
    method = made.make_method(**changes)
    memory = method.init_memory(jax.random.key(3), {})
    heads, options = oracle_of(memory), oracle_options(changes)
    step = jax.jit(partial(made.take_step, method))
    smallest_dual = 0.0
    for number, batch in enumerate(made.passes(EPOCHS, **views)):
        epoch = number // STEPS_PER_EPOCH
        memory, losses, metrics = step(
            memory, made.outputs_of(batch), batch.indices, jnp.int32(number)
        )
        sizes = sizes_of(heads[0])
        known = heads[0].label[batch.indices].copy()
        expected = oracle.take_step(heads, batch, epoch, options)
        if (number + 1) % STEPS_PER_EPOCH == 0:
            oracle.end_epoch(heads, epoch, options)
        # Logits up to 10 in float32: an error of some 1e-6.
        np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=2e-6)
        check_memory(memory, heads)
        assert metrics["largest_cluster"] == sizes.max()
        assert metrics["smallest_cluster"] == sizes.min()
        changed = ((known >= 0) & (known != heads[0].label[batch.indices])).mean()
        np.testing.assert_allclose(metrics["label_changes"], changed, rtol=1e-6)
        smallest_dual = min(smallest_dual, *(head.rho.min() for head in heads))
    assert (smallest_dual < 0) == bool(more)  # only balanced clusters may be punished
    assert (heads[0].label >= 0).all()  # also of those that waited in the first epoch


def sizes_of(head: oracle.Head) -> np.ndarray:
    return np.bincount(head.label[head.label >= 0], minlength=len(head.pre))


def check_memory(memory: Memory, heads: list[oracle.Head]) -> None:
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    for i, (found, head) in enumerate(zip(memory.heads, heads, strict=True)):
        np.testing.assert_array_equal(memory.labels[:, i], head.label)
        np.testing.assert_array_equal(found.counts, head.count)
        np.testing.assert_array_equal(found.sizes, sizes_of(head))
        close(found.duals, head.rho)
        close(found.fixed, head.pre)
        close(found.moving, head.cur)
        if memory.slots:
            weights = np.zeros((N, len(head.pre)))
            expected = np.zeros_like(weights)
            for image in range(N):
                labels = memory.slots.labels[image, i]
                np.add.at(weights[image], labels, memory.slots.weights[image, i])
                for label, weight in head.slots[image].items():
                    expected[image, label] = weight
            close(weights, expected)


def test_the_target_is_the_label_of_the_epoch_before() -> None:
    # What the loss reads in a later epoch does not depend on that epoch's features.
    method = made.make_method(hard_weight=1.0, temperature=1.0)
    memory = method.init_memory(jax.random.key(3), {})
    batches = list(made.passes(2, views=2))
    step = jax.jit(partial(made.take_step, method))
    for number, batch in enumerate(batches[:STEPS_PER_EPOCH]):
        memory, *_ = step(
            memory, made.outputs_of(batch), batch.indices, jnp.int32(number)
        )
    batch = batches[STEPS_PER_EPOCH]
    after, losses, _ = step(memory, made.outputs_of(batch), batch.indices, jnp.int32(4))
    expected = np.zeros(len(batch.indices))
    for i, head in enumerate(memory.heads):
        labels = np.asarray(memory.labels)[batch.indices, i]
        for x in (*batch.p, *batch.q):
            for b in np.flatnonzero(labels >= 0):
                logits = x[b] @ np.asarray(head.fixed).T
                expected[b] -= oracle.log_softmax(logits)[labels[b]] / 8
    known = np.asarray(memory.labels)[batch.indices, 0] >= 0
    assert known.sum() >= 5
    np.testing.assert_allclose(losses[known], expected[known], rtol=1e-5)
    # The labels written are others, so reading after writing would be noticed.
    assert (after.labels != memory.labels)[batch.indices[known]].any()


def test_centres_of_the_loss_stand_still_within_an_epoch() -> None:
    method = made.make_method()
    memory = method.init_memory(jax.random.key(3), {})
    step = jax.jit(partial(made.take_step, method))
    for number, batch in enumerate(made.passes(2, views=2)):
        before = memory.heads[0]
        memory, *_ = step(
            memory, made.outputs_of(batch), batch.indices, jnp.int32(number)
        )
        head = memory.heads[0]
        if (number + 1) % STEPS_PER_EPOCH:
            np.testing.assert_array_equal(head.fixed, before.fixed)
            assert (head.moving != before.moving).any()
        else:
            np.testing.assert_array_equal(head.fixed, head.moving)
            assert not head.counts.any() and head.duals.any()


def test_no_gradient_reaches_the_soft_labels() -> None:
    # With soft labels alone, the loss is least where p of one view is p of the other; a
    # gradient through the soft label would be another.
    method = made.make_method(hard_weight=0.0)
    memory = method.init_memory(jax.random.key(3), {})
    batch = next(made.passes(1, views=2))
    centers = [np.asarray(head.fixed) for head in memory.heads]

    def total(p: jax.Array) -> jax.Array:
        outputs = made.outputs_of(batch)
        large = outputs.large._replace(projections=p)
        losses = made.take_step(
            method, memory, outputs._replace(large=large), batch.indices, jnp.int32(0)
        )[1]
        return losses.sum()

    expected = np.zeros(batch.p.shape)
    for own, other in ((0, 1), (1, 0)):
        for b in range(made.B):
            for c in centers:
                softs = [
                    np.exp(oracle.log_softmax(x[b] @ c.T / 0.1))
                    for x in (batch.p[own], batch.p[other])
                ]
                expected[own, b] += (softs[0] - softs[1]) @ c / 0.1 / 8
    found = jax.grad(total)(jnp.asarray(batch.p))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def take_mapped(mode: str, count: int, kind: str) -> tuple[Memory, list[np.ndarray]]:
    """Takes steps with a runner; the memory comes back in global shapes."""
    changes, views = KINDS[kind]
    method = made.make_method(parallel.AXIS, **changes)
    runner = devices.make_runner(mode, count)
    spec, whole, split = method.memory_spec, parallel.REPLICATED, parallel.SHARDED

    def step(memory: Any, outputs: Any, indices: Any, number: Any) -> tuple:
        # Images come first where arrays are sharded.
        outputs = jax.tree.map(lambda x: x.swapaxes(0, 1), outputs)
        memory, losses, _ = made.take_step(method, memory, outputs, indices, number)
        return memory, losses

    mapped = runner.compile(step, (spec, split, split, whole), (spec, split))
    make = partial(method.init_memory, variables={})
    memory, found = runner.create(make, spec, jax.random.key(3)), []
    for number, batch in enumerate(made.passes(EPOCHS, **views)):
        outputs = jax.tree.map(lambda x: x.swapaxes(0, 1), made.outputs_of(batch))
        outputs = runner.put(jax.tree.map(np.asarray, outputs), split)
        memory, losses = mapped(
            memory,
            outputs,
            runner.put(batch.indices, split),
            runner.put(np.int32(number), whole),
        )
        found.append(np.asarray(runner.fetch(losses, split, made.B)).reshape(-1))
    return runner.fetch(memory, spec, N), found


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_devices_agree(kind: str, mode: str) -> None:
    changes, views = KINDS[kind]
    method = made.make_method(**changes)
    memory = method.init_memory(jax.random.key(3), {})
    alone, step = [], jax.jit(partial(made.take_step, method))
    for number, batch in enumerate(made.passes(EPOCHS, **views)):
        memory, losses, _ = step(
            memory, made.outputs_of(batch), batch.indices, jnp.int32(number)
        )
        alone.append(np.asarray(losses))
    for count in (1, 2, 4, 8):
        mapped, losses = take_mapped(mode, count, kind)
        # A loss is the difference of logits of up to 1 / tau, so that a small one has
        # their rounding.
        np.testing.assert_allclose(losses, alone, rtol=1e-5, atol=1e-6)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
            mapped,
            memory,
        )


def test_other_images_keep_their_labels_or_get_the_nearest_centre() -> None:
    changes, views = KINDS["one"]
    method = made.make_method(**changes)
    memory = method.init_memory(jax.random.key(3), {})
    step = jax.jit(partial(made.take_step, method))
    for number, batch in enumerate(made.passes(4, **views)):
        memory, *_ = step(
            memory, made.outputs_of(batch), batch.indices, jnp.int32(number)
        )
    memory = jax.tree.map(np.asarray, memory)
    rows = np.array([4, -1, 30, 2, -1], np.int32)
    far = 5 * memory.heads[1].fixed[[3, 7]]  # not of unit length
    matched = method.match(memory, rows, far)
    assert matched.labels.dtype == np.int32 and matched.labels.shape == (5, 2)
    np.testing.assert_array_equal(matched.labels[[0, 2, 3]], memory.labels[[4, 30, 2]])
    np.testing.assert_array_equal(matched.labels[[1, 4], 1], [3, 7])
    for i, size in enumerate(SIZES):
        expected = np.bincount(matched.labels[:, i], minlength=size)
        np.testing.assert_array_equal(matched.heads[i].sizes, expected)
        np.testing.assert_array_equal(matched.heads[i].duals, memory.heads[i].duals)
    np.testing.assert_array_equal(
        matched.slots.weights[[0, 2, 3]], memory.slots.weights[[4, 30, 2]]
    )
    assert not matched.slots.weights[[1, 4]].any()
    assert jax.tree.map(jnp.shape, matched.heads) == jax.tree.map(
        jnp.shape, memory.heads
    )
