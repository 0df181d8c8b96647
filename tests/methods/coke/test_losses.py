"""The three losses of CoKe against values that were worked out by hand.

There are two centres, the axes of the plane, so that the logits of a vector are the vector
itself, with a temperature of 1. The comments write l for the log of a sum of exponentials.
"""

import jax.numpy as jnp
import pytest

from invariance_propagation.methods.coke import losses
from invariance_propagation.methods.coke.averages import Slots
from invariance_propagation.methods.coke.clustering import Clusters
from invariance_propagation.methods.coke.network import Encoded

AXES = Clusters(jnp.eye(2), -jnp.eye(2), jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
RIGHT, UP, SLANTED = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
# l(1, 0) = 1.31326, l(0.6, 0.8) = 1.39814; softmax(1, 0) = (0.73106, 0.26894)


def encoded(projections: list, predictions: list) -> Encoded:
    """Holds one image: a vector for each view."""
    return Encoded(*(jnp.array([[x] for x in xs]) for xs in (projections, predictions)))


def test_one_view() -> None:
    view = encoded([RIGHT], [SLANTED])
    targets = Slots(jnp.array([[[0, 1]]]), jnp.array([[[0.75, 0.25]]]))
    # q: 0.75 (1.39814 - 0.6) + 0.25 (1.39814 - 0.8) = 0.74814
    # p: 0.75 (1.31326 - 1) + 0.25 (1.31326 - 0) = 0.56326
    found = losses.one_view(
        view, [AXES], targets, temperature=1.0, prediction_weight=0.75
    )
    assert found.tolist() == pytest.approx([0.75 * 0.74814 + 0.25 * 0.56326], abs=2e-5)


LARGE = encoded([RIGHT, UP], [RIGHT, SLANTED])
LABELS = jnp.array([[0]])


def test_two_views() -> None:
    # The targets are softmax(0, 1) for view 1 and softmax(1, 0) for view 2.
    # q of view 1, and p: hard 1.31326 - 1 = 0.31326, soft 1.31326 - 0.26894 = 1.04432
    # q of view 2: hard 1.39814 - 0.6 = 0.79814,
    #   soft 1.39814 - 0.73106 * 0.6 - 0.26894 * 0.8 = 0.74435
    # p of view 2: hard 1.31326, soft 1.31326 - 0.26894 = 1.04432
    hard = (0.31326 + 0.31326 + 0.79814 + 1.31326) / 4
    soft = (1.04432 + 1.04432 + 0.74435 + 1.04432) / 4
    for alpha in (1.0, 0.0, 0.25):
        found = losses.two_views(
            LARGE, [AXES], LABELS, temperature=1.0, hard_weight=alpha
        )
        expected = [alpha * hard + (1 - alpha) * soft]
        assert found.tolist() == pytest.approx(expected, abs=2e-5)


def test_small_views() -> None:
    # The target is the mean of softmax(1, 0) and softmax(0, 1): (1/2, 1/2).
    # q: hard 1.31326, soft 1.31326 - 1/2; p: hard 0.79814, soft 1.39814 - 0.7
    small = encoded([SLANTED], [UP])
    found = losses.small_views(
        small, LARGE, [AXES], LABELS, temperature=1.0, hard_weight=0.25
    )
    hard, soft = (1.31326 + 0.79814) / 2, (0.81326 + 0.69814) / 2
    assert found.tolist() == pytest.approx([0.25 * hard + 0.75 * soft], abs=2e-5)


def test_several_clusterings_are_averaged() -> None:
    turned = AXES._replace(fixed=jnp.eye(2)[::-1])
    labels = jnp.array([[0, 0]])
    options = {"temperature": 1.0, "hard_weight": 1.0}
    found = losses.two_views(LARGE, [AXES, turned], labels, **options)
    # With the axes exchanged, the hard losses are 1.31326, 1.31326, 0.59814 and 0.31326.
    first = (0.31326 + 0.31326 + 0.79814 + 1.31326) / 4
    second = (1.31326 + 1.31326 + 0.59814 + 0.31326) / 4
    assert found.tolist() == pytest.approx([(first + second) / 2], abs=2e-5)
