"""When the propagation loss is on, and what a step does to the memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.methods import (
    Batch,
    Method,
    Moment,
    Problem,
)
from invariance_propagation.methods.invariance_propagation import invariance_propagation
from invariance_propagation.models import Encoder
from invariance_propagation.parallel import REPLICATED, SHARDED
from tests.reference import objective as oracle

N, DIM, K, BATCH, STEPS_PER_EPOCH, WEIGHT = 40, 8, 4, 6, 6, 0.6
LOSS_OPTIONS = dict(
    num_hops=2,
    num_hard=4,
    background_size=12,
    temperature=0.2,
    form="paper",
    positives="hard",
)


class Outputs(NamedTuple):
    """Holds the only output of an encoder that this method reads."""

    embedding: Any


def make_method(**options: Any) -> Method:
    defaults = LOSS_OPTIONS | dict(
        selection="exact",
        precision="highest",
        num_neighbors=K,
        bank_momentum=0.5,
        bank_start="uniform",
        propagation_weight=WEIGHT,
        start="epoch",
        start_epoch=2,
        start_overlap=0.05,
        ramp="binary",
    )
    sizes = {"num_examples": N, "steps_per_epoch": STEPS_PER_EPOCH}
    sizes |= {name: options.pop(name) for name in sizes if name in options}
    encoder = Encoder(backbone=None, head="linear", dim=DIM)
    problem = Problem(encoder, batch_size=BATCH, axis_name=None, **sizes)
    return invariance_propagation(**defaults | options, problem=problem)


def make_batch(indices: np.ndarray) -> Batch:
    keys = jax.random.split(jax.random.key(0), len(indices))
    return Batch(indices, views={}, columns={}, keys=keys)


def at(step: Any, steps_per_epoch: int = STEPS_PER_EPOCH) -> Moment:
    """Returns the moment of a step."""
    return Moment(step, step // steps_per_epoch, jax.random.key(0))


def fresh_memory(method: Method, seed: int = 0) -> Any:
    return method.init_memory(jax.random.key(seed), {})


def per_image(method: Method, problem: tuple, steps: list[int]) -> list[np.ndarray]:
    """Computes the loss of every image at each of `steps`."""
    memory = fresh_memory(method)
    memory = memory._replace(bank=problem.bank, graph=problem.graph)

    @jax.jit
    def loss(embeddings: jax.Array, memory: Any, step: jax.Array) -> jax.Array:
        batch = make_batch(problem.indices)
        return method.loss(Outputs(embeddings), batch, memory, at(step))[0]

    return [np.asarray(loss(problem.embeddings, memory, jnp.int32(s))) for s in steps]


@pytest.mark.parametrize("form", ["paper", "released"])
def test_second_loss_is_on_from_the_start_epoch(make_problem, form: str) -> None:
    problem = make_problem(71)
    steps = [0, 2 * STEPS_PER_EPOCH - 1, 2 * STEPS_PER_EPOCH, 100 * STEPS_PER_EPOCH]
    first, last_without, first_with, late = per_image(
        make_method(form=form), problem, steps
    )
    expected = oracle.losses(*problem, **LOSS_OPTIONS | dict(form=form))
    both = expected.instance + WEIGHT * expected.propagation
    for loss in (first, last_without):
        np.testing.assert_allclose(loss, expected.instance, rtol=1e-5, atol=1e-5)
    for loss in (first_with, late):
        np.testing.assert_allclose(loss, both, rtol=1e-5, atol=1e-5)


def test_gaussian_ramp(make_problem) -> None:
    # The authors' code has exp(-5 (1 - t / T)^2), at most 1, where t counts from 1.
    problem = make_problem(72)
    method = make_method(ramp="gaussian", start_epoch=4)
    epochs = [0, 1, 3, 4, 9]
    losses = per_image(method, problem, [e * STEPS_PER_EPOCH + 1 for e in epochs])
    expected = oracle.losses(*problem, **LOSS_OPTIONS)
    for epoch, loss in zip(epochs, losses, strict=True):
        weight = WEIGHT * np.exp(-5 * (1 - min((epoch + 1) / 4, 1)) ** 2)
        np.testing.assert_allclose(
            loss, expected.instance + weight * expected.propagation, atol=1e-5
        )


@pytest.mark.parametrize("ramp", ["binary", "gaussian"])
def test_start_at_once(make_problem, ramp: str) -> None:
    problem = make_problem(73)
    (loss,) = per_image(make_method(ramp=ramp, start_epoch=0), problem, [0])
    expected = oracle.losses(*problem, **LOSS_OPTIONS)
    both = expected.instance + WEIGHT * expected.propagation
    np.testing.assert_allclose(loss, both, atol=1e-5)


def test_no_weight_leaves_instance_discrimination(make_problem) -> None:
    problem = make_problem(74)
    (loss,) = per_image(make_method(propagation_weight=0.0), problem, [1000])
    expected = oracle.losses(*problem, **LOSS_OPTIONS)
    np.testing.assert_allclose(loss, expected.instance, atol=1e-5)


def test_second_loss_starts_by_itself(make_problem) -> None:
    """It starts in the step after the mean overlap reaches the threshold, and stays on."""
    problem = make_problem(77)
    method = make_method(start="auto", start_epoch=0, start_overlap=0.3)
    memory = fresh_memory(method)
    first = oracle.losses(*problem, **LOSS_OPTIONS).neighbors
    graph = np.array(problem.graph)
    graph[problem.indices[:3]] = first[:3]  # half of the rows are found again
    problem = problem._replace(graph=graph)
    memory = memory._replace(bank=problem.bank, graph=graph)
    both = oracle.losses(*problem, **LOSS_OPTIONS)
    overlap = np.mean(
        [
            np.isin(both.neighbors[i], problem.graph[problem.indices[i]])
            for i in range(BATCH)
        ]
    )
    batch, outputs = make_batch(problem.indices), Outputs(problem.embeddings)

    @jax.jit
    def take(memory: Any, step: jax.Array):
        loss, aux = method.loss(outputs, batch, memory, at(step))
        after = method.update(memory, outputs, batch, aux, {}, at(step))
        return loss, aux.metrics, after.readiness

    threshold = 0.3 + K / (N - 1)  # beyond what random neighbours keep
    mean, weights, expected = 0.0, [], []
    for step in range(12):
        loss, metrics, readiness = take(memory, jnp.int32(step))
        memory = memory._replace(readiness=readiness)
        weights.append(float(metrics["propagation_weight"]))
        expected.append(WEIGHT if mean >= threshold else 0.0)
        np.testing.assert_allclose(
            loss, both.instance + weights[-1] * both.propagation, atol=1e-5
        )
        mean += (overlap - mean) / STEPS_PER_EPOCH
    assert weights == pytest.approx(expected)
    assert 0 < weights.index(max(weights)) < 12


def first_start(num_examples: int, batch: int, *, stable: bool, epochs: int) -> int:
    """Returns the step from which propagation is on; -1 if it never is.

    Embeddings are random at every step, or each image's row of the bank.
    """
    steps_per_epoch = num_examples // batch
    method = make_method(
        start="auto",
        num_examples=num_examples,
        steps_per_epoch=steps_per_epoch,
        background_size=num_examples // 2,
    )
    rng = np.random.default_rng(num_examples)
    orders = [rng.permutation(num_examples) for _ in range(epochs)]
    orders = np.concatenate([x[: steps_per_epoch * batch] for x in orders])

    def take(memory: Any, inputs: tuple) -> tuple[Any, None]:
        step, indices = inputs
        key = jax.random.fold_in(jax.random.key(1), step)
        noise = jax.random.normal(key, (len(indices), DIM))
        outputs = Outputs(memory.bank[indices] if stable else noise)
        batch, moment = make_batch(indices), at(step, steps_per_epoch)
        aux = method.loss(outputs, batch, memory, moment)[1]
        return method.update(memory, outputs, batch, aux, {}, moment), None

    inputs = jnp.arange(epochs * steps_per_epoch), orders.reshape(-1, batch)
    last, _ = jax.lax.scan(take, fresh_memory(method), inputs)
    return int(last.readiness.since)


@pytest.mark.parametrize(
    "num_examples, batch",
    [(20, 16), (20, 11), (30, 10), (50, 26), (100, 32), (100, 20)],
)
def test_random_neighbours_never_start(num_examples: int, batch: int) -> None:
    """With few images chance keeps much more than the threshold: 4 of 19 are 21 %."""
    assert first_start(num_examples, batch, stable=False, epochs=1000) == -1
    assert 0 < first_start(num_examples, batch, stable=True, epochs=60)


def test_only_what_starts_by_itself_is_watched() -> None:
    for method in (
        make_method(),
        make_method(start="auto", propagation_weight=0.0),
        make_method(propagation_weight=0.0),
    ):
        assert fresh_memory(method).readiness is None


def test_a_run_that_ends_before_propagation_is_warned_of() -> None:
    (warning,) = make_method(start_epoch=7).notes.warnings(7)
    assert (
        "propagation starts in epoch 7" in warning and "only 7 epochs (train" in warning
    )
    for method in (
        make_method(start_epoch=6),
        make_method(start="auto", start_epoch=0),
        make_method(start_epoch=7, propagation_weight=0.0),
    ):
        assert method.notes.warnings(7) == []


@pytest.mark.parametrize("form", ["paper", "released"])
def test_two_epochs_from_a_fresh_memory(form: str) -> None:
    """Compares loss, gradient, metrics, bank and graph of twelve steps with the oracle.

    The loss must read the memory as it was before the step; in the second epoch the positives are what the first epoch
    found, so a step that wrote too early, or forgot a row, shows here.
    """
    method = make_method(start_epoch=0, bank_momentum=0.3, form=form)
    options = LOSS_OPTIONS | dict(form=form)
    rng = np.random.default_rng(75)
    memory = fresh_memory(method, 75)
    bank, graph = np.asarray(memory.bank, np.float64), np.asarray(memory.graph)

    @jax.jit
    def take(embeddings: jax.Array, indices: jax.Array, memory: Any, step: jax.Array):
        batch = make_batch(indices)

        def total(embeddings: jax.Array) -> tuple:
            loss, aux = method.loss(Outputs(embeddings), batch, memory, at(step))
            return jnp.sum(loss), (loss, aux)

        gradient, (loss, aux) = jax.grad(total, has_aux=True)(embeddings)
        outputs = Outputs(embeddings)
        updated = method.update(memory, outputs, batch, aux, {}, at(step))
        return updated, loss, gradient, aux.metrics

    step = 0
    for _ in range(2):
        order = rng.permutation(N)[: STEPS_PER_EPOCH * BATCH].astype(np.int32)
        for indices in order.reshape(STEPS_PER_EPOCH, BATCH):
            embeddings = rng.normal(size=(BATCH, DIM)).astype(np.float32)
            memory, loss, gradient, metrics = take(
                embeddings, indices, memory, jnp.int32(step)
            )
            expected = oracle.losses(embeddings, indices, bank, graph, **options)
            np.testing.assert_allclose(
                loss,
                expected.instance + WEIGHT * expected.propagation,
                rtol=1e-5,
                atol=1e-5,
            )
            np.testing.assert_allclose(
                gradient,
                expected.instance_gradient + WEIGHT * expected.propagation_gradient,
                atol=2e-5,
            )
            found = {
                "instance": expected.instance.mean(),
                "propagation": expected.propagation.mean(),
                "propagation_weight": WEIGHT,
                "neighbor_overlap": np.mean(
                    [
                        node in graph[i]
                        for i, row in zip(indices, expected.neighbors, strict=True)
                        for node in row
                    ]
                ),
                "similarity": (embeddings.mean(axis=0) ** 2).sum()
                / (embeddings**2).sum(axis=1).mean(),
            }
            assert metrics.keys() == found.keys()
            for name, value in found.items():
                np.testing.assert_allclose(
                    metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name
                )
            bank = oracle.update_bank(bank, indices, embeddings, momentum=0.3)
            graph = oracle.update_graph(graph, indices, expected.neighbors)
            np.testing.assert_allclose(memory.bank, bank, atol=1e-6)
            np.testing.assert_array_equal(memory.graph, graph)
            step += 1
    assert step == 2 * STEPS_PER_EPOCH


def test_gradient_is_finite_before_there_are_positives() -> None:
    # Zero times NaN is NaN, so with a fresh graph nothing may be NaN, whether the loss is on or off.
    for start_epoch in (0, 2):
        method = make_method(start_epoch=start_epoch)
        memory = fresh_memory(method, 76)
        embeddings = np.random.default_rng(76).normal(size=(BATCH, DIM))
        embeddings[0] = 0
        batch = make_batch(np.arange(BATCH, dtype=np.int32))

        def total(
            embeddings: jax.Array, method=method, memory=memory, batch=batch
        ) -> jax.Array:
            outputs = Outputs(embeddings)
            return jnp.sum(method.loss(outputs, batch, memory, at(jnp.int32(0)))[0])

        gradient = jax.jit(jax.grad(total))(embeddings.astype(np.float32))
        assert np.all(np.isfinite(gradient))
        assert np.all(np.any(np.asarray(gradient)[1:] != 0, axis=1))


def test_memory_starts_from_noise_or_from_embeddings() -> None:
    uniform = make_method()
    assert uniform.begin is None
    memory = fresh_memory(uniform, 77)
    assert memory.bank.shape == (N, DIM)
    assert np.abs(memory.bank).max() <= 1 / np.sqrt(DIM / 3)
    fresh = np.repeat(np.arange(N)[:, None], K, axis=1)
    np.testing.assert_array_equal(memory.graph, fresh)

    embeddings = 3 * np.random.default_rng(77).normal(size=(N, DIM))
    embedded = make_method(bank_start="embeddings")
    memory = embedded.begin(memory, lambda: Outputs(np.float32(embeddings)))
    rows = [oracle.normalise(x) for x in embeddings]
    np.testing.assert_allclose(memory.bank, rows, atol=5e-7)
    assert memory.bank.dtype == np.float32
    np.testing.assert_array_equal(memory.graph, fresh)


@pytest.mark.parametrize("start", ["epoch", "auto"])
def test_bank_is_spread_over_devices_and_the_graph_is_on_all(start: str) -> None:
    method = make_method(start=start)
    memory = jax.eval_shape(method.init_memory, jax.random.key(0), {})
    assert jax.tree.structure(method.memory_spec) == jax.tree.structure(memory)
    assert method.memory_spec.bank == SHARDED
    assert method.memory_spec.graph == REPLICATED


def test_batch_is_left_as_it_is() -> None:
    batch = make_batch(np.arange(3))
    assert make_method().prepare(batch, at(0)) is batch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bank_momentum", -0.5),
        ("bank_momentum", 1.01),
        ("propagation_weight", -1.0),
        ("start_epoch", -1),
        ("start", "soon"),
        ("start_overlap", 0.0),
        ("ramp", "linear"),
        ("bank_start", "zeros"),
        ("graph", "split"),
        ("background_size", N + 1),
        ("num_neighbors", N),
        ("num_hops", 0),
        ("num_hard", 0),
        ("temperature", 0.0),
        ("form", "arxiv"),
        ("positives", "all"),
        ("selection", "sorted"),
        ("precision", "float16"),
    ],
)
def test_impossible_option_is_an_error_at_once(name: str, value: Any) -> None:
    # `make_method` itself raises, before any array exists.
    with pytest.raises(ValueError, match=rf"^method\.{name}="):
        make_method(**{name: value})


@pytest.mark.parametrize("options", [{}, {"start": "auto"}])
def test_a_memory_follows_its_images(options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    method = make_method(**options, num_examples=30)
    earlier = fresh_memory(make_method(**options))
    memory = jax.tree.map(np.asarray, earlier)._replace(
        graph=random.integers(N, size=(N, K)).astype(np.int32)
    )
    rows = np.concatenate([random.permutation(N)[:26], np.full(4, -1)]).astype(np.int32)
    rows = random.permutation(rows)
    embeddings = random.normal(size=(4, DIM)).astype(np.float32)
    matched = method.match(memory, rows, embeddings)
    shapes = jax.eval_shape(method.init_memory, jax.random.key(0), {})
    same = jax.tree.map(
        lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), *((matched, shapes))
    )
    assert all(jax.tree.leaves(same))
    kept = rows >= 0
    np.testing.assert_array_equal(matched.bank[kept], memory.bank[rows[kept]])
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(matched.bank[~kept], embeddings / lengths, rtol=1e-5)
    # Neighbours that are still there are the same images as before.
    for place, row in zip(np.flatnonzero(kept), rows[kept], strict=True):
        for found, was in zip(matched.graph[place], memory.graph[row], strict=True):
            assert rows[found] == was if was in rows else found == place
    if options:
        assert matched.readiness == memory.readiness
