"""When propagation may start by itself."""

from collections.abc import Sequence

import jax
import numpy as np
import pytest

from invariance_propagation.errors import UserError
from invariance_propagation.methods.invariance_propagation.readiness import (
    NOT_YET,
    Readiness,
    check_threshold,
    init_readiness,
    is_ready,
    threshold_of,
    update_readiness,
)


def watch(overlaps: Sequence[float], **options: float) -> list[Readiness]:
    def step(readiness: Readiness, now: tuple) -> tuple[Readiness, Readiness]:
        readiness = update_readiness(readiness, *now, **options)
        return readiness, readiness

    steps = np.arange(len(overlaps), dtype=np.int32)
    given = np.asarray(overlaps, np.float32), steps
    _, found = jax.device_get(jax.lax.scan(step, init_readiness(), given))
    return [Readiness(*x) for x in zip(*found, strict=True)]


def test_against_the_definition() -> None:
    """The mean has weights that fall by (1 - 1/n) a step; `since` is its first crossing."""
    overlaps = np.random.default_rng(3).uniform(0, 0.2, 60)
    found = watch(overlaps, threshold=0.07, steps_per_epoch=9)
    since = NOT_YET
    for step, readiness in enumerate(found):
        ages = step - np.arange(step + 1)
        mean = np.sum(overlaps[: step + 1] * (1 - 1 / 9) ** ages) / 9
        np.testing.assert_allclose(readiness.overlap, mean, rtol=1e-5)
        if since == NOT_YET and mean >= 0.07:
            since = step + 1
        assert readiness.since == since
        assert bool(is_ready(readiness)) == (since != NOT_YET)
    assert 5 < since < 55  # there was something to see


def test_once_ready_always_ready() -> None:
    *_, last = watch([0.4] * 4 + [0.0] * 40, threshold=0.1, steps_per_epoch=5)
    assert last.overlap < 0.01 and last.since == 2


def test_what_never_settles_never_starts() -> None:
    *_, last = watch([0.004] * 50, threshold=0.05, steps_per_epoch=5)
    assert last.since == NOT_YET


def test_an_epoch_of_one_step_counts_alone() -> None:
    found = watch([0.0, 0.3, 0.1], threshold=0.2, steps_per_epoch=1)
    assert [float(x.overlap) for x in found] == pytest.approx([0.0, 0.3, 0.1])
    assert [int(x.since) for x in found] == [NOT_YET, 2, 2]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_thresholds(threshold: float) -> None:
    with pytest.raises(UserError, match="start_overlap"):
        check_threshold(threshold)


@pytest.mark.parametrize("num_examples", [20, 35, 60, 100, 1000])
@pytest.mark.parametrize("batch_size", [5, 20])
def test_random_neighbors_never_start(num_examples: int, batch_size: int) -> None:
    k, epochs = 4, 200
    per_epoch = num_examples // batch_size
    random = np.random.default_rng(num_examples)
    # How many of k others, drawn anew, are among the k of before.
    size = (epochs * per_epoch, batch_size)
    kept = random.hypergeometric(k, num_examples - 1 - k, k, size=size)
    overlaps = list(kept.mean(axis=1) / k)
    threshold = threshold_of(0.05, num_examples=num_examples, num_neighbors=k)
    options = {"threshold": threshold, "steps_per_epoch": per_epoch}
    assert np.mean(overlaps) == pytest.approx(k / (num_examples - 1), rel=0.1)
    assert watch(overlaps, **options)[-1].since == NOT_YET
    settled = [0.9] * 3 * per_epoch
    assert watch(overlaps[:per_epoch] + settled, **options)[-1].since != NOT_YET


def test_of_many_images_chance_is_subtracted() -> None:
    found = threshold_of(0.05, num_examples=1000, num_neighbors=4)
    assert found == pytest.approx(0.05 + 4 / 999)


def test_too_few_images_to_tell_are_refused() -> None:
    with pytest.raises(UserError, match="random neighbours keep 100%.*start='epoch'"):
        threshold_of(0.05, num_examples=5, num_neighbors=4)
