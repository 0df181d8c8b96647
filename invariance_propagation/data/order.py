"""The order in which images are visited: a function of (seed, epoch) alone."""

import numpy as np


def epoch_order(
    *, seed: int, epoch: int, num_examples: int, batch_size: int
) -> np.ndarray:
    """One epoch's batches.

    No index appears twice, so none repeats inside a global batch; the tail of
    the shuffle that fills no batch is dropped, another one each epoch.

    Returns:
      int32 [N // B, B].
    """
    # Philox is counter-based and documented to be stable across versions.
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    steps = num_examples // batch_size
    order = random.permutation(num_examples)[: steps * batch_size]
    return order.reshape(steps, batch_size).astype(np.int32)
