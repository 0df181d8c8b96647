"""Loss and memory of Online Deep Clustering against loops in NumPy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from invariance_propagation import devices
from invariance_propagation.errors import UserError
from invariance_propagation.methods.base import Aux, Batch, Method, Moment, Problem
from invariance_propagation.methods.odc import Memory, odc
from invariance_propagation.methods.odc.network import Classified
from invariance_propagation.methods.odc.upkeep import Clusters, replace_small
from invariance_propagation.models import Encoder, Outputs
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests.reference import odc as oracle

N, DIM, CLUSTERS, BATCH, SMALLEST, EVERY = 93, 6, 7, 16, 6, 3
OPTIONS = dict(
    num_clusters=CLUSTERS,
    min_cluster=SMALLEST,
    bank_momentum=0.5,
    refresh_every=EVERY,
    splits_per_step=4,
    balance=0.5,
    kmeans_iterations=3,
    split_iterations=4,
    dropout=0.5,
    norm_momentum=0.9,
)


def method_of(axis_name: str | None = None, **options: Any) -> Method:
    encoder = Encoder(backbone=None, head="linear", hidden=4, dim=DIM)
    problem = Problem(encoder, N, BATCH, N // BATCH, axis_name)
    return odc(**OPTIONS | options, problem=problem)


def memory_of(seed: int, *, sizes: list[int] | None = None) -> Memory:
    """Random rows of unit length; centroids are means that are somewhat out of date."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLUSTERS, size=N)
    if sizes is not None:
        labels = random.permutation(np.repeat(np.arange(CLUSTERS), sizes))
    bank = np.abs(random.normal(size=(N, DIM)))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    means = [bank[labels == c].mean(axis=0) for c in range(CLUSTERS) if c in labels]
    centroids = np.abs(random.normal(size=(CLUSTERS, DIM))) / 3
    centroids[np.unique(labels)] = means
    centroids += 0.05 * random.normal(size=centroids.shape)
    return Memory(
        bank.astype(np.float32),
        Clusters(
            labels.astype(np.int32),
            np.bincount(labels, minlength=CLUSTERS).astype(np.int32),
            centroids.astype(np.float32),
        ),
    )


def batches(count: int, seed: int) -> list[tuple[np.ndarray, Classified]]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        indices = random.permutation(N)[:BATCH].astype(np.int32)
        embedding = np.maximum(random.normal(size=(BATCH, DIM)), 0)
        embedding[0] = 0  # a dead embedding
        logits = random.normal(size=(BATCH, CLUSTERS))
        outputs = Classified(np.float32(embedding), np.float32(logits))
        found.append((indices, outputs))
    return found


def step_of(method: Method) -> Any:
    """What the trainer does of the method in a step."""

    def step(memory: Memory, indices: Any, outputs: Classified, number: Any) -> Any:
        batch = Batch(indices, {}, {}, None)
        moment = Moment(number, jnp.int32(0), None)
        per_image, aux = method.loss(outputs, batch, memory, moment)
        memory = method.update(memory, outputs, batch, aux, {}, moment)
        return memory, per_image, aux.metrics["label_changes"][None]

    return step


def run(method: Method, memory: Memory, given: list, **devices_: Any) -> Any:
    """Takes steps; returns the memory, the losses and shares of changed labels."""
    step, losses, changes = step_of(method), [], []
    if not devices_:
        mapped = jax.jit(step)
        for number, (indices, outputs) in enumerate(given):
            memory, loss, changed = mapped(memory, indices, outputs, jnp.int32(number))
            losses.append(loss.mean())
            changes.append(changed.mean())
        return jax.device_get((memory, losses, changes))
    runner = devices.make_runner(devices_["mode"], devices_["count"])
    spec = method.memory_spec
    mapped = runner.compile(
        step, (spec, SHARDED, SHARDED, REPLICATED), (spec, SHARDED, SHARDED)
    )
    memory = runner.put(memory, spec)
    for number, (indices, outputs) in enumerate(given):
        placed = runner.put((indices, outputs), (SHARDED, SHARDED))
        memory, loss, changed = mapped(
            memory, *placed, runner.put(np.int32(number), REPLICATED)
        )
        losses.append(runner.fetch(loss, SHARDED, BATCH).mean())
        changes.append(runner.fetch(changed, SHARDED, devices_["count"]).mean())
    for part in jax.tree.leaves(memory.clusters):  # equal on all devices
        copies = [np.asarray(shard.data) for shard in part.addressable_shards]
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])
    return runner.fetch(memory, spec, N), losses, changes


def of_oracle(memory: Memory, given: list) -> Any:
    bank, (labels, _, centroids) = memory
    wanted = oracle.Memory(bank.astype(float), labels.copy(), centroids.astype(float))
    losses, changes, small = [], [], []
    for number, (indices, outputs) in enumerate(given):
        sizes = np.bincount(wanted.labels, minlength=CLUSTERS)
        losses.append(oracle.loss(outputs.logits, wanted.labels[indices], sizes, 0.5))
        changed, count = oracle.iterate(
            wanted,
            indices,
            np.asarray(outputs.embedding, float),
            step=number,
            m=0.5,
            every=EVERY,
            smallest=SMALLEST,
            iterations=4,
        )
        changes.append(changed)
        small.append(count)
    return wanted, losses, changes, small


def check(found: Any, wanted: Any) -> None:
    memory, losses, changes = found
    reference, losses_, changes_, _ = wanted
    np.testing.assert_array_equal(memory.clusters.labels, reference.labels)
    np.testing.assert_array_equal(
        memory.clusters.sizes, np.bincount(reference.labels, minlength=CLUSTERS)
    )
    np.testing.assert_allclose(memory.bank, reference.bank, atol=1e-6)
    np.testing.assert_allclose(
        memory.clusters.centroids, reference.centroids, atol=1e-6
    )
    np.testing.assert_allclose(losses, losses_, rtol=1e-5)
    np.testing.assert_allclose(changes, changes_, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_steps_are_those_of_the_oracle(seed: int) -> None:
    memory, given = memory_of(seed, sizes=[3, 0, 40, 2, 20, 18, 10]), batches(8, seed)
    wanted = of_oracle(memory, given)
    small = wanted[-1]
    assert 0 in small and sum(small) >= 1 and max(small) <= 4  # both cases are there
    check(run(method_of(), memory, given), wanted)


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_steps_are_the_same_on_all_devices(count: int, mode: str) -> None:
    memory, given = memory_of(9, sizes=[3, 0, 40, 2, 20, 18, 10]), batches(4, 9)
    wanted = of_oracle(memory, given)
    assert sum(wanted[-1]) >= 2
    check(run(method_of(AXIS), memory, given, mode=mode, count=count), wanted)


def test_the_loss_is_the_weighted_mean_of_torch() -> None:
    memory, [(indices, outputs)] = memory_of(3), batches(1, 3)
    per_image, _ = method_of().loss(outputs, Batch(indices, {}, {}, None), memory, None)
    weights = (1.0 / (memory.clusters.sizes + 1e-5)) ** 0.5
    wanted = torch.nn.functional.cross_entropy(
        torch.tensor(np.array(outputs.logits)),
        torch.tensor(memory.clusters.labels[indices].astype(np.int64)),
        weight=torch.tensor(weights.astype(np.float32)),
    )
    np.testing.assert_allclose(per_image.mean(), float(wanted), rtol=1e-5)


def test_golden_weights() -> None:
    # Clusters of 4 and 16 images: 1/2 and 1/4 before they are divided by their sum. Loss
    # log(2) and log(4): (1/2 log 2 + 1/4 log 4) / (3/4) = 4/3 log 2.
    sizes = np.int32([4, 16, *[0] * (CLUSTERS - 2)])
    memory = memory_of(0)
    labels = memory.clusters.labels.copy()
    labels[[5, 7]] = 0, 1
    memory = memory._replace(
        clusters=memory.clusters._replace(labels=labels, sizes=sizes)
    )
    logits = np.full((2, CLUSTERS), -100.0, np.float32)
    logits[0, :2] = 0
    logits[1, :4] = 0
    outputs = Classified(np.ones((2, DIM), np.float32), logits)
    batch = Batch(np.int32([5, 7]), {}, {}, None)
    per_image, aux = method_of().loss(outputs, batch, memory, None)
    np.testing.assert_allclose(per_image.mean(), 4 / 3 * np.log(2), rtol=1e-5)
    assert aux.metrics["largest_cluster"] == 16 and aux.metrics["smallest_cluster"] == 0


def test_golden_step() -> None:
    """Rows and centroids at angles; everything can be checked by hand.

    Image 0 at 0 degrees sees 60: its row moves to 30. Of the centroids at 10, 40 and 88
    degrees its own fits best, because the second one is shorter: cos 20 = 0.94 is above
    0.9 cos 10 = 0.89. Cluster 2 has one image, at 90 degrees. It is dissolved into cluster
    1 (0.9 cos 50 = 0.58 is above cos 80 = 0.17), and takes the smaller half of cluster 0.
    """

    def at(degrees: Any) -> np.ndarray:
        angles = np.deg2rad(np.float64(degrees))
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)

    encoder = Encoder(backbone=None, head="linear", hidden=4, dim=2)
    problem = Problem(encoder, 12, 1, 12, None)
    method = odc(**OPTIONS | dict(num_clusters=3, min_cluster=2), problem=problem)
    bank = at([0, 5, 10, 15, 20, 12, 8, 9, 35, 45, 85, 90])
    labels = np.int32([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    centroids = np.stack([at(10), 0.9 * at(40), at(88)])
    memory = Memory(bank, Clusters(labels, np.int32([8, 3, 1]), centroids))
    outputs = Classified(3 * at([60]), np.zeros((1, 3), np.float32))
    found, _, changed = jax.jit(step_of(method))(
        memory, np.int32([0]), outputs, jnp.int32(0)
    )
    assert changed == 0
    np.testing.assert_allclose(found.bank[0], at(30), atol=1e-6)
    np.testing.assert_array_equal(found.bank[1:], bank[1:])
    # Lloyd ends with 5 to 15 degrees in one half, and 20 and 30 in the other.
    angles = np.array([30, 5, 10, 15, 20, 12, 8, 9])
    half = found.clusters.labels[:8] == 2
    assert set(angles[half]) == {20, 30}
    np.testing.assert_array_equal(found.clusters.labels[8:], [1, 1, 1, 1])
    np.testing.assert_array_equal(found.clusters.sizes, [6, 4, 2])
    np.testing.assert_allclose(
        found.clusters.centroids[2], (at(20) + at(30)) / 2, atol=1e-6
    )
    np.testing.assert_allclose(found.clusters.centroids[1], 0.9 * at(40), atol=1e-6)


def test_later_small_clusters_wait() -> None:
    bank, clusters = memory_of(4, sizes=[2, 1, 40, 3, 43, 2, 2])  # five are small
    options = {"min_cluster": SMALLEST, "num_iterations": 4, "axis_name": None}
    replace = partial(
        jax.jit(replace_small, static_argnames=("most", *options)), **options
    )
    found = [jax.device_get(replace(clusters, bank, most=most)) for most in (2, 5, 9)]
    small = np.array([x.sizes < SMALLEST for x in found])
    np.testing.assert_array_equal(small[0], [0, 0, 0, 1, 0, 1, 1])
    assert not small[1:].any()
    np.testing.assert_array_equal(found[1].labels, found[2].labels)
    for one in found:
        counted = np.bincount(one.labels, minlength=CLUSTERS)
        np.testing.assert_array_equal(one.sizes, counted)
    waiting = np.isin(clusters.labels, [3, 5, 6])
    np.testing.assert_array_equal(found[0].labels[waiting], clusters.labels[waiting])


def test_a_smallest_size_of_one_replaces_empty_clusters_alone() -> None:
    bank, clusters = memory_of(4, sizes=[1, 0, 40, 3, 43, 4, 2])
    found = replace_small(
        jax.tree.map(jnp.asarray, clusters),
        bank,
        min_cluster=1,
        most=4,
        num_iterations=4,
        axis_name=None,
    )
    np.testing.assert_array_equal(
        found.sizes[jnp.array([0, 2, 3, 5, 6])], [1, 40, 3, 4, 2]
    )
    assert found.sizes[1] + found.sizes[4] == 43 and found.sizes[1] > 0


def test_the_first_clustering_leaves_none_empty() -> None:
    # Three different rows: k-means finds three clusters, and seven are asked for.
    rows = np.abs(np.random.default_rng(0).normal(size=(3, DIM)))[np.arange(N) % 3]
    for method in (method_of(), method_of(kmeans_iterations=0)):
        memory = method.init_memory(jax.random.key(0), {})
        memory = method.begin(memory, lambda: Outputs(None, np.float32(rows)))
        np.testing.assert_allclose(np.linalg.norm(memory.bank, axis=1), 1, rtol=1e-6)
        _, clusters = jax.jit(method.settle)(memory, jax.random.key(1))
        counted = np.bincount(clusters.labels, minlength=CLUSTERS)
        assert len(counted) == CLUSTERS and (counted > 0).all()
        np.testing.assert_array_equal(clusters.sizes, counted)
        for c in range(CLUSTERS):
            mean = memory.bank[clusters.labels == c].mean(axis=0)
            np.testing.assert_allclose(clusters.centroids[c], mean, atol=1e-6)


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_first_clustering_is_the_same_on_all_devices(count: int, mode: str) -> None:
    method, alone = method_of(AXIS), method_of()
    memory, key = memory_of(6), jax.random.key(3)
    # So that some clusters come out empty; the means of these rows are exact.
    memory.bank[:70] = np.eye(DIM)[0]
    expected = jax.jit(alone.settle)(memory, key)
    runner = devices.make_runner(mode, count)
    spec = method.memory_spec
    settle = runner.compile(
        lambda memory, data: method.settle(memory, jax.random.wrap_key_data(data)),
        (spec, REPLICATED),
        spec,
    )
    data = runner.put(np.asarray(jax.random.key_data(key)), REPLICATED)
    found = runner.fetch(settle(runner.put(memory, spec), data), spec, N)
    np.testing.assert_array_equal(found.clusters.labels, expected.clusters.labels)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found, expected)


def test_other_images() -> None:
    memory = memory_of(5)
    rows = np.array([3, -1, 0, -1])
    new = np.stack([5 * memory.clusters.centroids[2], memory.bank[9]])
    found = method_of().match(memory, rows, new)
    np.testing.assert_array_equal(found.bank[[0, 2]], memory.bank[[3, 0]])
    unit = new / np.linalg.norm(new, axis=1, keepdims=True)
    np.testing.assert_allclose(found.bank[[1, 3]], unit, rtol=1e-6)
    labels = memory.clusters.labels
    wanted = [np.argmax(memory.clusters.centroids @ row) for row in unit]
    np.testing.assert_array_equal(
        found.clusters.labels, [labels[3], wanted[0], labels[0], wanted[1]]
    )
    np.testing.assert_array_equal(
        found.clusters.sizes, np.bincount(found.clusters.labels, minlength=CLUSTERS)
    )
    assert found.clusters.labels.dtype == found.clusters.sizes.dtype == np.int32
    np.testing.assert_array_equal(found.clusters.centroids, memory.clusters.centroids)


def test_auto_follows_the_images_that_the_run_began_with() -> None:
    encoder = Encoder(backbone=None, head="linear", hidden=4, dim=DIM)
    auto = OPTIONS | dict(num_clusters="auto", min_cluster="auto")
    imagenet = Problem(encoder, 1_281_167, 512, 1_281_167 // 512, None)
    about = odc(**auto, problem=imagenet).notes.about
    assert about == "10,008 clusters of at least 20 images"
    grown = imagenet._replace(num_examples=2_000_000)
    assert odc(**auto, problem=grown).notes.about == about


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 1}, "method.num_clusters=1: set it to 2 or above"),
        ({"min_cluster": 0}, "method.min_cluster=0: set it to 1 or above"),
        ({"num_clusters": 0.5}, "method.num_clusters=0.5: set it to a whole number"),
        ({"bank_momentum": 1.5}, "method.bank_momentum=1.5: set it from 0 to 1"),
        ({"dropout": 1.0}, "method.dropout=1.0: set it in"),
        ({"refresh_every": 0}, "method.refresh_every=0: set it to 1"),
        ({"balance": -1}, "method.balance=-1: set it to 0"),
        ({"num_clusters": 10}, "need 120 images, twice as many, but there are 93"),
    ],
)
def test_wrong_options(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method_of(**changes)


def test_a_step_that_is_not_finite_leaves_a_sound_memory() -> None:
    memory, [(indices, outputs)] = memory_of(8), batches(1, 8)
    zero = jax.tree.map(np.zeros_like, outputs)
    aux = Aux({}, np.zeros(BATCH, np.int32))
    batch, moment = (
        Batch(indices, {}, {}, None),
        Moment(jnp.int32(0), jnp.int32(0), None),
    )
    found = jax.jit(method_of().update)(memory, zero, batch, aux, {}, moment)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    np.testing.assert_array_equal(
        found.clusters.sizes, np.bincount(found.clusters.labels, minlength=CLUSTERS)
    )
