"""ODC's loss and memory against an oracle that goes through one iteration in loops."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import devices
from invariance_propagation.errors import UserError
from invariance_propagation.methods import Aux, Batch, Method, Moment, Problem
from invariance_propagation.methods.odc import Memory, odc
from invariance_propagation.methods.odc.method import (
    Classified,
    clusters_of,
    relabel,
)
from invariance_propagation.methods.odc.small_clusters import (
    Clusters,
    deal_with_small,
    sizes_of,
)
from invariance_propagation.models import Encoder
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests import tiny
from tests.reference import odc as oracle

N, DIM, K, BATCH, STEPS = 93, 6, 5, 24, 12
OPTIONS = {
    "num_clusters": K,
    "min_size": 14,
    "splits_per_step": 5,
    "bank_momentum": 0.5,
    "centroid_every": 3,
    "balance": 0.5,
    "hidden": 8,
    "dropout": 0.5,
    "kmeans_rounds": 5,
}
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


def make_method(axis_name: str | None = None, **options: Any) -> Method:
    encoder = Encoder(tiny.TinyBackbone(axis_name), "linear", dim=DIM)
    problem = Problem(encoder, N, BATCH, N // BATCH, axis_name)
    return odc(**OPTIONS | options, problem=problem)


class Given(NamedTuple):
    """Holds what a network would find in each step."""

    indices: np.ndarray
    embeddings: np.ndarray
    logits: np.ndarray


def first_memory() -> Memory:
    random = np.random.default_rng(0)
    rows = np.abs(random.normal(size=(N, DIM))).astype(np.float32)
    labels = random.integers(0, K, N).astype(np.int32)
    centroids = np.stack([rows[labels == c].mean(axis=0) for c in range(K)])
    sizes = np.bincount(labels, minlength=K).astype(np.int32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    memory = Memory(rows, Clusters(labels, sizes, centroids))
    return jax.tree.map(jnp.asarray, memory)


def given(step: int) -> Given:
    random = np.random.default_rng(100 + step)
    return Given(
        random.permutation(N)[:BATCH].astype(np.int32),
        np.abs(random.normal(size=(BATCH, DIM))).astype(np.float32),
        random.normal(size=(BATCH, K)).astype(np.float32),
    )


def take(method: Method, memory: Memory, step: jax.Array, found: Given) -> tuple:
    """Loss and memory of one step with given outputs of the network."""
    outputs = Classified(found.embeddings, found.logits)
    keys = jax.random.split(jax.random.key(0), len(found.indices))
    batch = Batch(found.indices, {}, {}, keys)
    moment = Moment(step, jnp.int32(0), jax.random.key(0))
    loss, aux = method.loss(outputs, batch, memory, moment)
    return method.update(memory, outputs, batch, aux, {}, moment), (loss, aux.metrics)


def expected_steps() -> list[tuple[np.ndarray, dict[str, Any]]]:
    start = jax.device_get(first_memory())
    memory = {
        "bank": start.bank.astype(np.float64),
        "labels": start.clusters.labels,
        "centroids": start.clusters.centroids.astype(np.float64),
    }
    found = []
    for step in range(STEPS):
        indices, embeddings, logits = given(step)
        sizes = np.bincount(memory["labels"], minlength=K)
        losses = oracle.losses(logits, memory["labels"][indices], sizes, balance=0.5)
        memory = oracle.iteration(
            memory,
            indices,
            embeddings,
            step=step,
            min_size=OPTIONS["min_size"],
            bank_momentum=0.5,
            centroid_every=3,
        )
        found.append((losses, memory))
    return found


@pytest.fixture(scope="module")
def expected() -> list[tuple[np.ndarray, dict[str, Any]]]:
    return expected_steps()


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", devices.MODES)
def test_steps_are_those_of_the_oracle(expected, mode: str, num_devices: int) -> None:
    method = make_method(AXIS)
    runner = devices.make_runner(mode, num_devices)

    def step(memory: Memory, number: jax.Array, found: Given) -> tuple:
        memory, (loss, metrics) = take(method, memory, number, found)
        return memory, loss, jax.tree.map(lambda x: jax.lax.pmean(x, AXIS), metrics)

    spec = method.memory_spec
    mapped = runner.compile(
        step, (spec, REPLICATED, SHARDED), (spec, SHARDED, REPLICATED)
    )
    memory, dissolved = runner.put(first_memory(), spec), 0
    before = first_memory().clusters.labels
    for number, (losses, wanted) in enumerate(expected):
        inputs = runner.put((jnp.int32(number), given(number)), (REPLICATED, SHARDED))
        memory, loss, metrics = mapped(memory, *inputs)
        np.testing.assert_allclose(
            runner.fetch(loss, SHARDED, BATCH), losses, rtol=2e-5
        )
        found = runner.fetch(memory, spec, N)
        np.testing.assert_allclose(found.bank, wanted["bank"], **TOLERANCE)
        np.testing.assert_array_equal(found.clusters.labels, wanted["labels"])
        sizes = np.bincount(wanted["labels"], minlength=K)
        np.testing.assert_array_equal(found.clusters.sizes, sizes)
        np.testing.assert_allclose(
            found.clusters.centroids, wanted["centroids"], **TOLERANCE
        )
        indices = given(number).indices
        if not wanted["small"]:
            changed = (wanted["labels"] != before)[indices].mean()
            shown = runner.fetch(metrics, REPLICATED, N)["label_changes"]
            assert float(shown) == pytest.approx(changed)
        before, dissolved = wanted["labels"], dissolved + len(wanted["small"])
    assert dissolved >= 4, "the case dissolves no clusters: it tests little"


def test_golden_loss() -> None:
    """Two images of clusters of 1 and 4 weigh 2 to 1; logits 0 cost log 5 each."""
    memory = first_memory()
    labels = jnp.zeros(N, jnp.int32).at[1:5].set(1)
    sizes = jnp.array([1, 4, 0, 0, 0], jnp.int32)
    memory = memory._replace(
        clusters=memory.clusters._replace(labels=labels, sizes=sizes)
    )
    logits = np.zeros((2, K), np.float32)
    logits[1, 1] = np.log(4.0)  # 4 of 8: log 2
    found = Given(np.array([0, 1], np.int32), np.ones((2, DIM), np.float32), logits)
    _, (loss, metrics) = take(make_method(), memory, jnp.int32(0), found)
    np.testing.assert_allclose(loss, [4 / 3 * np.log(5), 2 / 3 * np.log(2)], rtol=1e-5)
    assert (metrics["largest_cluster"], metrics["smallest_cluster"]) == (4, 0)


# Small clusters.


def clusters_with(sizes: list[int], rows: np.ndarray) -> Clusters:
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    means = [
        rows[labels == c].mean(axis=0) if size else np.zeros(rows.shape[1])
        for c, size in enumerate(sizes)
    ]
    centroids = np.stack(means).astype(np.float32)
    return Clusters(labels, sizes_of(jnp.asarray(labels), len(sizes)), centroids)


def test_what_is_left_waits_for_the_next_step() -> None:
    rows = first_memory().bank
    clusters = clusters_with([3, 40, 0, 4, 46], rows)
    seen = []
    for _ in range(4):
        clusters = deal_with_small(clusters, rows, min_size=8, most=1, axis_name=None)
        seen.append(int((clusters.sizes < 8).sum()))
    assert seen == [2, 1, 0, 0]
    assert clusters.sizes.sum() == N
    np.testing.assert_array_equal(
        clusters.sizes, np.bincount(clusters.labels, minlength=5)
    )


def test_equal_rows_are_dealt_out_by_turns() -> None:
    rows = jnp.tile(jnp.eye(DIM, dtype=jnp.float32)[0], (N, 1))
    clusters = clusters_with([N, 0, 0], rows)
    found = deal_with_small(clusters, rows, min_size=2, most=2, axis_name=None)
    np.testing.assert_array_equal(found.sizes, [24, 46, 23])
    assert np.isfinite(found.centroids).all()


def test_if_all_clusters_are_small_none_loses_its_images() -> None:
    rows = first_memory().bank
    clusters = clusters_with([30, 30, 33], rows)
    found = deal_with_small(clusters, rows, min_size=50, most=3, axis_name=None)
    assert found.sizes.sum() == N and found.sizes.min() > 0


def test_labels_are_counted_as_they_change() -> None:
    clusters = first_memory().clusters
    indices = np.array([3, 50, 7], np.int32)
    new = np.array([0, 4, 4], np.int32)
    found = relabel(clusters, indices, new, None)
    np.testing.assert_array_equal(found.labels[indices], new)
    np.testing.assert_array_equal(found.sizes, np.bincount(found.labels, minlength=K))


# Begin, match, options.


def test_it_begins_with_kmeans_of_the_untrained_network() -> None:
    method = make_method(min_size=2)
    random = np.random.default_rng(4)
    centres = np.eye(DIM)[:K]
    kinds = np.arange(N) % K
    embedded = (centres[kinds] + 0.01 * random.random((N, DIM))).astype(np.float32)
    empty = method.init_memory(jax.random.key(0), {})
    memory = method.begin(jax.device_get(empty), lambda: Classified(embedded, None))
    labels = clusters_of(memory)
    for cluster in range(K):
        assert len(set(kinds[labels == cluster])) == 1
    np.testing.assert_allclose(np.linalg.norm(memory.bank, axis=1), 1, rtol=1e-5)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), memory)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), empty)


def test_new_images_join_the_nearest_cluster() -> None:
    memory = jax.device_get(first_memory())
    rows = np.array([4, -1, 90, -1], np.int32)
    embeddings = 3 * memory.clusters.centroids[[2, 0]]
    found = make_method().match(memory, rows, embeddings)
    labels = memory.clusters.labels
    nearest = np.argmax(embeddings @ memory.clusters.centroids.T, axis=1)
    expected = [labels[4], nearest[0], labels[90], nearest[1]]
    np.testing.assert_array_equal(found.clusters.labels, expected)
    np.testing.assert_array_equal(found.bank[[0, 2]], memory.bank[[4, 90]])
    assert found.clusters.sizes.sum() == 4


def test_dropout_is_for_training_alone() -> None:
    method = make_method()
    images = tiny.pictures()[:6].astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(1), 6)
    batch = Batch(np.arange(6), {"view": images[None]}, {}, keys)
    variables = method.encoder.init(
        jax.random.key(0), batch, train=False, method=method.forward
    )

    def run(train: bool) -> Classified:
        return method.encoder.apply(
            variables,
            batch,
            train=train,
            mutable=["batch_stats"],
            method=method.forward,
        )[0]

    embedded = method.encoder.apply(variables, images, train=False).embedding
    np.testing.assert_array_equal(run(False).embedding, embedded)
    assert embedded.min() >= 0 and not np.allclose(run(True).embedding, embedded)
    assert "neck_norm" not in variables["params"]
    labels = method.param_groups(variables["params"])
    assert labels.pop("classifier") == "classifier"
    assert set(labels.values()) == {"rest"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_clusters", 1),
        ("num_clusters", "many"),
        ("min_size", 0),
        ("min_size", 20),
        ("splits_per_step", 0),
        ("bank_momentum", 1.5),
        ("centroid_every", 0),
        ("balance", -1),
        ("hidden", 0),
        ("dropout", 1.0),
        ("kmeans_rounds", 0),
    ],
)
def test_impossible_option_is_an_error_at_once(option: str, value: Any) -> None:
    with pytest.raises(
        UserError, match=f"method.{option}={value!r}: set|method.{option}"
    ):
        make_method(**{option: value})


def test_auto_takes_a_cluster_for_128_images() -> None:
    for count, clusters in ((1_281_167, 10_009), (1347, 10), (100, 2)):
        problem = Problem(
            Encoder(tiny.TinyBackbone(None), "linear", dim=4), count, 8, 1, None
        )
        method = odc(**OPTIONS | {"num_clusters": "auto"}, problem=problem)
        assert method.encoder.num_clusters == clusters


def test_found_is_what_update_writes() -> None:
    memory = first_memory()
    found = given(0)
    outputs = Classified(found.embeddings, found.logits)
    keys = jax.random.split(jax.random.key(0), BATCH)
    batch = Batch(found.indices, {}, {}, keys)
    moment = Moment(jnp.int32(0), jnp.int32(0), jax.random.key(0))
    labels = np.full(BATCH, 3, np.int32)
    method = make_method(min_size=1)
    new = method.update(memory, outputs, batch, Aux({}, labels), {}, moment)
    np.testing.assert_array_equal(new.clusters.labels[found.indices], labels)
