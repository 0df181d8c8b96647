"""Whole steps of Online Deep Clustering against a slow loop in the authors' order."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import devices
from invariance_propagation.errors import UserError
from invariance_propagation.methods import Batch, Moment, Problem, make_method
from invariance_propagation.methods.odc import Memory
from invariance_propagation.methods.odc.network import Classified
from invariance_propagation.methods.odc.options import Clusters
from invariance_propagation.methods.odc.repair import choose_small
from invariance_propagation.models import Encoder, Outputs
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED, pmean
from tests import tiny
from tests.reference import odc as oracle

OPTIONS = {
    "num_clusters": 7,
    "bank_momentum": 0.3,  # not 0.5, so that old and new are told apart
    "min_cluster": 6,
    "splits_per_step": 7,
    "refresh_every": 3,
    "weight_power": 0.5,
    "kmeans_iterations": 5,
    "split_iterations": 20,
    "dropout": 0.5,
    "norm_momentum": 0.9,
}
NUM_EXAMPLES, BATCH, DIM = 93, 16, 6
# What the oracle needs to know of them.
OF_AN_ITERATION = (
    "bank_momentum",
    "min_cluster",
    "splits_per_step",
    "refresh_every",
    "weight_power",
    "split_iterations",
)


def problem_of(axis_name: str | None, num_examples: int = NUM_EXAMPLES) -> Problem:
    encoder = Encoder(tiny.TinyBackbone(axis_name), "linear", hidden=12, dim=DIM)
    return Problem(encoder, num_examples, BATCH, num_examples // BATCH, axis_name)


def make(axis_name: str | None = None, *, num_examples: int = NUM_EXAMPLES, **changes):
    section = {"method": {"name": "odc", **OPTIONS, **changes}}
    return make_method(section, problem_of(axis_name, num_examples))


def first_memory(seed: int = 0) -> Memory:
    """Rows around seven directions; some have few rows, and no number is negative."""
    random = np.random.default_rng(seed)
    labels = random.choice(
        7, size=NUM_EXAMPLES, p=[0.4, 0.3, 0.1, 0.1, 0.04, 0.03, 0.03]
    )
    rows = np.maximum(random.normal(size=(7, DIM))[labels], 0)
    rows += np.abs(0.3 * random.normal(size=rows.shape))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    means = [
        rows[labels == c].sum(axis=0) / max(1, np.sum(labels == c)) for c in range(7)
    ]
    sizes = np.bincount(labels, minlength=7).astype(np.int32)
    clusters = Clusters(labels.astype(np.int32), np.float32(means), sizes)
    return Memory(rows.astype(np.float32), clusters)


class Step(NamedTuple):
    ids: np.ndarray
    embeddings: np.ndarray
    logits: np.ndarray


def random_steps(count: int, seed: int = 1) -> list[Step]:
    random = np.random.default_rng(seed)
    return [
        Step(
            random.permutation(NUM_EXAMPLES)[:BATCH].astype(np.int32),
            np.maximum(random.normal(size=(BATCH, DIM)), 0).astype(np.float32),
            (3 * random.normal(size=(BATCH, 7))).astype(np.float32),
        )
        for _ in range(count)
    ]


def one_step(
    memory: Memory,
    ids: jax.Array,
    embeddings: jax.Array,
    logits: jax.Array,
    number: jax.Array,
    *,
    method: Any,
    axis_name: str | None,
) -> tuple[Memory, dict[str, jax.Array]]:
    batch = Batch(ids, {}, {}, None)
    moment = Moment(number, number, jax.random.key(0))
    outputs = Classified(embeddings, logits)
    losses, aux = method.loss(outputs, batch, memory, moment)
    found = {"loss": losses.mean(), **aux.metrics}
    memory = method.update(memory, outputs, batch, aux, {}, moment)
    return memory, pmean(found, axis_name)


def take_alone(
    method: Any, memory: Memory, number: int, *given: np.ndarray
) -> tuple[Memory, dict[str, jax.Array]]:
    """Takes one step on one device that holds everything."""
    step = jax.jit(partial(one_step, method=method, axis_name=None))
    return step(jax.tree.map(jnp.asarray, memory), *given, jnp.int32(number))


def take(
    memory: Memory, steps: list[Step], *, mode: str, num_devices: int, **changes: Any
) -> tuple[list[Memory], list[dict[str, float]]]:
    method, runner = make(AXIS, **changes), devices.make_runner(mode, num_devices)
    spec = method.memory_spec
    step = runner.compile(
        partial(one_step, method=method, axis_name=AXIS),
        (spec, SHARDED, SHARDED, SHARDED, REPLICATED),
        (spec, REPLICATED),
    )
    states, metrics, memory = [], [], runner.put(memory, spec)
    for number, given in enumerate(steps):
        placed = runner.put(tuple(given), (SHARDED,) * 3)
        memory, found = step(memory, *placed, runner.put(np.int32(number), REPLICATED))
        states.append(runner.fetch(memory, spec, NUM_EXAMPLES))
        metrics.append({name: float(x) for name, x in found.items()})
    return states, metrics


def wanted(memory: Memory, steps: list[Step], **changes: Any) -> list[tuple]:
    options = {name: (OPTIONS | changes)[name] for name in OF_AN_ITERATION}
    state = oracle.State(
        memory.bank.astype(np.float64),
        memory.clusters.labels,
        memory.clusters.centroids.astype(np.float64),
    )
    found = []
    for number, given in enumerate(steps):
        state, loss, changed = oracle.iteration(state, *given, step=number, **options)
        found.append((state, loss, changed))
    return found


def check(states: list, metrics: list, right: list[tuple]) -> None:
    for memory, row, (state, loss, changed) in zip(states, metrics, right, strict=True):
        np.testing.assert_allclose(memory.bank, state.bank, atol=1e-6)
        np.testing.assert_array_equal(memory.clusters.labels, state.labels)
        np.testing.assert_allclose(
            memory.clusters.centroids, state.centroids, atol=1e-6
        )
        np.testing.assert_array_equal(
            memory.clusters.sizes, np.bincount(state.labels, minlength=7)
        )
        np.testing.assert_allclose(row["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(row["label_changes"], changed, atol=1e-6)


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_iterations_are_those_of_the_released_order(
    mode: str, num_devices: int
) -> None:
    memory, steps = first_memory(), random_steps(8)
    assert (memory.clusters.sizes < OPTIONS["min_cluster"]).sum() >= 2
    right = wanted(memory, steps, splits_per_step=None)  # all of them, as released
    check(*take(memory, steps, mode=mode, num_devices=num_devices), right)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_step_splits_no_more_than_it_may(num_devices: int) -> None:
    memory, steps = first_memory(), random_steps(8)
    for most in (0, 1, 2):
        right = wanted(memory, steps, splits_per_step=most)
        given = {"mode": "pmap", "num_devices": num_devices, "splits_per_step": most}
        check(*take(memory, steps, **given), right)


def test_others_wait_for_the_next_steps() -> None:
    memory = first_memory()
    states, _ = take(
        memory, random_steps(4), mode="pmap", num_devices=1, splits_per_step=1
    )
    small = [int((s.clusters.sizes < 6).sum()) for s in (memory, *states)]
    assert small[0] >= 2 and small[-1] < small[0]


def test_clusters_that_get_small_again_keep_no_other_waiting() -> None:
    small = jnp.array([True, True, False, True, True, False, True])  # at every step
    treated = [
        choose_small(small, 2, step=jnp.int32(step)).tolist() for step in range(4)
    ]
    assert treated == [[0, 1], [3, 4], [4, 6], [0, 6]]
    one = jnp.arange(7) == 5
    assert choose_small(one, 2, step=jnp.int32(3)).tolist() == [5, 7]
    assert choose_small(small & False, 2, step=jnp.int32(1)).tolist() == [7, 7]


def test_settings_change_what_they_are_for() -> None:
    memory, steps = first_memory(), random_steps(4)
    for changes in (
        {"bank_momentum": 0.9},
        {"weight_power": 0.0},
        {"weight_power": 1.0},
        {"refresh_every": 1},
        {"min_cluster": 1},  # empty ones alone
        {"split_iterations": 1},
    ):
        right = wanted(memory, steps, **changes)
        check(*take(memory, steps, mode="pmap", num_devices=2, **changes), right)


# By hand.


def test_the_weighted_mean_is_pytorchs() -> None:
    # Sizes 4, 1 and 0 weigh 1/2, 1 and much; labels 0, 0, 1: weights 1/2, 1/2, 1 of 2.
    logits = np.log(np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 6]], np.float32))
    cross = -np.log([2 / 4, 1 / 4, 1 / 8])
    by_hand = (0.5 * cross[0] + 0.5 * cross[1] + cross[2]) / 2
    clusters = Clusters(
        np.array([0, 0, 1, 0, 0], np.int32),
        np.eye(3, DIM, dtype=np.float32),
        np.array([4, 1, 0]),
    )
    memory = jax.tree.map(jnp.asarray, Memory(np.ones((5, DIM), np.float32), clusters))
    method = make(num_examples=15, num_clusters=3, min_cluster=1)
    ids = jnp.array([0, 1, 2])
    outputs = Classified(jnp.ones((3, DIM)), logits)
    losses, _ = method.loss(outputs, Batch(ids, {}, {}, None), memory, None)
    np.testing.assert_allclose(losses.mean(), by_hand, rtol=1e-5)
    weights = oracle.class_weights(clusters.labels, 3, 0.5)
    slow = oracle.weighted_cross_entropy(logits, [0, 0, 1], weights)
    assert slow == pytest.approx(by_hand, rel=1e-5)


def test_a_feature_moves_by_half_and_takes_the_nearest_centroid() -> None:
    # Half of (1, 0) and half of (0, 1) is the diagonal; 0.8 along it wins against
    # centroids that point better but are shorter.
    bank = np.zeros((14, DIM), np.float32)
    bank[:, 0] = 1
    centroids = np.zeros((2, DIM), np.float32)
    centroids[0, 0], centroids[1, :2] = 0.9, (0.5, 0.5)
    labels = np.zeros(14, np.int32)
    labels[7:] = 1
    memory = Memory(bank, Clusters(labels, centroids, np.array([7, 7], np.int32)))
    method = make(num_examples=14, num_clusters=2, bank_momentum=0.5, min_cluster=3)
    embeddings = np.zeros((1, DIM), np.float32)
    embeddings[0, 1] = 3
    given = np.array([2], np.int32), embeddings, np.zeros((1, 2), np.float32)
    after, found = take_alone(method, memory, 0, *given)
    np.testing.assert_allclose(after.bank[2, :2], [0.5**0.5] * 2, rtol=1e-6)
    assert after.clusters.labels[2] == 1 and after.clusters.sizes.tolist() == [6, 8]
    assert found["label_changes"] == 1
    np.testing.assert_array_equal(
        after.clusters.centroids, centroids
    )  # no step of five


def test_a_cluster_of_equal_features_is_halved() -> None:
    bank = np.full((20, DIM), DIM**-0.5, np.float32)
    clusters = Clusters(
        np.zeros(20, np.int32), np.eye(2, DIM, dtype=np.float32), np.array([20, 0])
    )
    method = make(num_examples=20, num_clusters=2, min_cluster=5)
    given = (
        np.array([3], np.int32),
        np.ones((1, DIM), np.float32),
        np.zeros((1, 2), np.float32),
    )
    after, _ = one_step(
        jax.tree.map(jnp.asarray, Memory(bank, clusters)),
        *given,
        jnp.int32(0),
        method=method,
        axis_name=None,
    )
    assert after.clusters.sizes.tolist() == [10, 10]
    assert np.bincount(after.clusters.labels).tolist() == [10, 10]


def test_a_step_that_is_not_finite_leaves_no_nan_behind() -> None:
    # The trainer passes zeros then; a zero feature has no direction.
    ids = np.arange(BATCH, dtype=np.int32)
    zeros = np.zeros((BATCH, DIM), np.float32), np.zeros((BATCH, 7), np.float32)
    after, found = take_alone(make(), first_memory(), 0, ids, *zeros)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
    assert all(np.isfinite(x) for x in found.values())


def test_sixty_four_bits_change_nothing() -> None:
    results = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            method = make()
            started = method.begin(None, lambda: Outputs(None, first_memory().bank))
            memory = first_memory()
            for number, given in enumerate(random_steps(3)):
                memory, found = take_alone(method, memory, number, *given)
            results.append((started, memory, found))
    plain, wide = results
    jax.tree.map(np.testing.assert_array_equal, plain, wide)
    assert {x.dtype for x in jax.tree.leaves(wide)} == {
        np.dtype(np.float32),
        np.dtype(np.int32),
    }


# The start, and other images.


def test_it_begins_with_k_means_of_unit_features() -> None:
    random = np.random.default_rng(0)
    embeddings = np.maximum(random.normal(size=(NUM_EXAMPLES, DIM)), 0)
    embeddings[5] = 0  # ReLU can leave nothing
    method = make()
    memory = method.begin(None, lambda: Outputs(None, embeddings.astype(np.float32)))
    lengths = np.linalg.norm(memory.bank, axis=1)
    np.testing.assert_allclose(lengths, embeddings.any(axis=1), rtol=1e-6)
    assert lengths[5] == 0
    labels, centroids, sizes = memory.clusters
    np.testing.assert_array_equal(sizes, np.bincount(labels, minlength=7))
    assert sizes.min() >= 1 and sizes.dtype == labels.dtype == np.int32
    for c in range(7):
        np.testing.assert_allclose(
            centroids[c], memory.bank[labels == c].mean(axis=0), atol=1e-6
        )
    again = method.begin(None, lambda: Outputs(None, embeddings.astype(np.float32)))
    jax.tree.map(np.testing.assert_array_equal, memory, again)
    shapes = jax.eval_shape(method.init_memory, jax.random.key(0), {})
    jax.tree.map(
        lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype) or pytest.fail(),
        shapes,
        memory,
    )


def test_a_memory_follows_its_images() -> None:
    memory, method = first_memory(), make()
    rows = np.array([4, -1, 90, -1, 0], np.int32)
    new = 2 * memory.clusters.centroids[[0, 2]]
    found = method.match(memory, rows, new)
    np.testing.assert_array_equal(found.bank[[0, 2, 4]], memory.bank[[4, 90, 0]])
    for row, feature in zip((1, 3), new, strict=True):
        unit = feature / np.linalg.norm(feature)
        np.testing.assert_allclose(found.bank[row], unit, rtol=1e-5)
        label = np.argmax(memory.clusters.centroids @ unit)
        assert found.clusters.labels[row] == label
    np.testing.assert_array_equal(
        found.clusters.labels[[0, 2, 4]], memory.clusters.labels[[4, 90, 0]]
    )
    np.testing.assert_array_equal(found.clusters.centroids, memory.clusters.centroids)
    counts = np.bincount(found.clusters.labels, minlength=7)
    np.testing.assert_array_equal(found.clusters.sizes, counts)
    fewer = method.match(memory, np.arange(3), np.zeros((0, DIM), np.float32))
    assert fewer.clusters.sizes.sum() == 3


# Options.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_clusters": 1}, r"method.num_clusters=1: .* set it from 2 to 7"),
        ({"num_clusters": 8}, r"method.num_clusters=8: .* set it from 2 to 7"),
        ({"num_clusters": "many"}, "method.num_clusters='many'"),
        ({"num_clusters": 2.5}, r"method.num_clusters=2.5"),
        ({"min_cluster": 24}, "method.min_cluster=24, .* at most 23"),
        ({"min_cluster": 0}, "method.min_cluster=0"),
        ({"splits_per_step": -1}, "method.splits_per_step=-1"),
        ({"refresh_every": 0}, "method.refresh_every=0"),
        ({"bank_momentum": 1.5}, "method.bank_momentum=1.5: set it from 0 to 1"),
        ({"dropout": 1}, "method.dropout=1"),
        ({"norm_momentum": -0.1}, "method.norm_momentum=-0.1"),
        ({"weight_power": -1}, "method.weight_power=-1"),
        ({"kmeans_iterations": 2.0}, "method.kmeans_iterations=2.0"),
        ({"split_iterations": 0}, "method.split_iterations=0"),
    ],
)
def test_an_impossible_option_is_one_line(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**changes)


@pytest.mark.parametrize(
    ("num_examples", "min_cluster", "count"),
    [
        (1_281_167, 20, 10_009),
        (60_000, 20, 468),
        (93, 6, 2),
        (400, 100, 2),
        (1347, 50, 10),
        (1347, 60, 10),
        (1347, 70, 9),
    ],
)
def test_the_number_of_clusters_follows_n(
    num_examples: int, min_cluster: int, count: int
) -> None:
    method = make(
        num_examples=num_examples, num_clusters="auto", min_cluster=min_cluster
    )
    assert method.encoder.num_clusters == count
    assert method.requires.fewest_examples == 2 * count * min_cluster
    assert f"{count:,} clusters" in method.notes.about


def test_the_number_of_clusters_stays_when_a_run_goes_on_with_more_images() -> None:
    section = {"method": {"name": "odc", **OPTIONS, "num_clusters": "auto"}}
    problem = problem_of(None, 1347)
    grown = make_method(section, problem._replace(num_examples=3000))
    assert grown.encoder.num_clusters == 10
    with pytest.raises(UserError, match="method.num_clusters=10: with 30 images"):
        make_method(section, problem._replace(num_examples=30))
