"""The labels that an image keeps in the second stage, and the averages of centres."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.methods.coke import averages, clustering
from invariance_propagation.methods.coke.averages import Slots
from invariance_propagation.methods.coke.clustering import Duals


def after(history: list[int], num_slots: int) -> dict[int, float]:
    """Returns an image's weights by label after a label in each epoch of the stage."""
    slots = averages.init_slots(1, 1, num_slots)
    for t, label in enumerate(history):
        new = jnp.array([[label]], jnp.int32)
        slots = averages.add_label(slots, new, jnp.float32(1 / (t + 1)))
    labels, weights = np.asarray(slots.labels[0, 0]), np.asarray(slots.weights[0, 0])
    filled = weights > 0
    assert len(set(labels[filled])) == filled.sum()  # each label has one slot
    return {
        int(x): float(w) for x, w in zip(labels[filled], weights[filled], strict=True)
    }


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([7], {7: 1}),
        ([7, 7], {7: 1}),
        ([7, 2], {7: 1 / 2, 2: 1 / 2}),
        ([7, 2, 2, 0], {7: 1 / 4, 2: 2 / 4, 0: 1 / 4}),
        ([0, 0, 1], {0: 2 / 3, 1: 1 / 3}),  # 0 is a label, and not an empty slot
        # Three slots. 0, 1, 2 weigh 3/6, 2/6, 1/6 when 3 comes: 2 leaves, the others are
        # scaled from 5/6 to 1 - 1/7, and 3 weighs 1/7.
        (
            [0, 0, 0, 1, 1, 2, 3],
            {0: 3 / 5 * 6 / 7, 1: 2 / 5 * 6 / 7, 3: 1 / 7},
        ),
    ],
)
def test_labels_are_averaged(history: list[int], expected: dict[int, float]) -> None:
    found = after(history, 3)
    assert found.keys() == expected.keys()
    for label, weight in expected.items():
        np.testing.assert_allclose(found[label], weight, rtol=1e-5)
    np.testing.assert_allclose(sum(found.values()), 1, rtol=1e-6)


def test_an_image_that_comes_late_starts_with_one_label() -> None:
    slots = averages.init_slots(1, 1, 3)
    slots = averages.add_label(slots, jnp.array([[4]], jnp.int32), jnp.float32(1 / 3))
    assert slots.weights.max() == 1 and slots.weights.sum() == 1


def test_the_target_weighs_labels_by_a_softmax() -> None:
    slots = Slots(
        jnp.array([[[7, 2, 0]], [[7, 2, 0]]], jnp.int32),
        jnp.array([[[0.75, 0.25, 0.0]], [[0.0, 0.0, 0.0]]], jnp.float32),
    )
    target = averages.target_of(slots, jnp.array([[5], [6]], jnp.int32), 0.5)
    # e^1.5 / (e^1.5 + e^0.5) = 1 / (1 + e^-1); the empty slot counts for nothing.
    expected = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(
        target.weights[0, 0], [expected, 1 - expected, 0], rtol=1e-6
    )
    assert target.labels[0, 0].tolist() == [7, 2, 0]
    # An image without slots is trained on its one label.
    np.testing.assert_array_equal(target.weights[1, 0], [1, 0, 0])
    assert target.labels[1, 0, 0] == 6


def test_centres_are_averaged_over_epochs() -> None:
    clusters = clustering.init_clusters(jax.random.key(0), 2, 2)
    clusters = clusters._replace(fixed=jnp.eye(2, dtype=jnp.float32))
    features = jnp.array([[0.6, 0.8], [0.0, 1.0]], jnp.float32)
    zeros, none = jnp.zeros(2, jnp.int32), jnp.full(2, -1, jnp.int32)
    moved = clustering.add_batch(clusters, features, zeros, none, Duals(0.1, 0.4))
    # Means are as long as they are until the epoch ends.
    np.testing.assert_allclose(moved.moving[0], [0.3, 0.9], atol=1e-6)
    first = averages.end_epoch(moved, jnp.float32(1))
    np.testing.assert_allclose(first.fixed[0], [0.316228, 0.948683], atol=1e-5)
    half = averages.end_epoch(moved, jnp.float32(0.5))
    # ((1, 0) + (0.316228, 0.948683)) / 2, at unit length.
    np.testing.assert_allclose(half.fixed[0], [0.811242, 0.584710], atol=1e-5)
    np.testing.assert_array_equal(half.fixed, half.moving)
    assert not half.counts.any()
