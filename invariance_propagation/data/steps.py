"""Finds the images of a step in the order of its epoch."""

import functools

import numpy as np

from invariance_propagation.data.order import epoch_order

# Two epochs: threads that read ahead are in both at the end of an epoch.
_kept_order = functools.lru_cache(maxsize=2)(epoch_order)


def step_indices(
    step: int, *, seed: int, num_examples: int, batch_size: int, steps_per_epoch: int
) -> np.ndarray:
    """Returns the indices int32 [B] of the images that a step visits.

    Args:
      step: counted from 0 over the whole run.
      seed, num_examples, batch_size: as for `epoch_order`.
      steps_per_epoch: `steps` of `epoch_order`.
    """
    epoch, place = divmod(step, steps_per_epoch)
    order = _kept_order(
        seed=seed,
        epoch=epoch,
        num_examples=num_examples,
        batch_size=batch_size,
        steps=steps_per_epoch,
    )
    return order[place]
