"""Tests that the images of a step are a row of the order of its epoch."""

import numpy as np
import pytest

from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.steps import step_indices


@pytest.mark.parametrize("steps_per_epoch", [7, 10, 23])
def test_steps_follow_each_other_through_the_epochs(steps_per_epoch: int) -> None:
    # 10 batches fill an epoch: fewer, as many, and more than that.
    options = {"seed": 3, "num_examples": 103, "batch_size": 10}
    expected = np.concatenate(
        [
            epoch_order(**options, epoch=epoch, steps=steps_per_epoch)
            for epoch in range(3)
        ]
    )
    steps = range(len(expected))
    # In any order: a run continues anywhere, and threads read ahead.
    for step in [*steps, *reversed(steps)]:
        indices = step_indices(step, **options, steps_per_epoch=steps_per_epoch)
        assert indices.dtype == np.int32
        np.testing.assert_array_equal(indices, expected[step])
