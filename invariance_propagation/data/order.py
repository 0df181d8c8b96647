"""Which images are visited when, and which are drawn: functions of a seed alone."""

import numpy as np


def epoch_order(
    *,
    seed: int,
    epoch: int,
    num_examples: int,
    batch_size: int,
    steps: int | None = None,
) -> np.ndarray:
    """One epoch's batches.

    No index appears twice, so none repeats inside a global batch; the tail of
    the shuffle that fills no batch is dropped, another one each epoch.

    Args:
      seed: of the run.
      epoch: from 0.
      num_examples: N.
      batch_size: B, at most N.
      steps: of an epoch; None: N // B. With fewer, other images are left out each epoch.
        With more, the images are shuffled anew as often as needed, so that an index
        appears again, but never twice in a batch.

    Returns:
      int32 [steps, B].
    """
    # Philox is counter-based and documented to be stable across versions.
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    at_once = num_examples // batch_size
    steps = at_once if steps is None else steps
    whole = at_once * batch_size
    shuffles = [
        random.permutation(num_examples)[:whole] for _ in range(0, steps, at_once)
    ]
    order = np.concatenate(shuffles)[: steps * batch_size]
    return order.reshape(steps, batch_size).astype(np.int32)


def random_rows(
    count: int, *, num_examples: int, seed: int, purpose: int
) -> np.ndarray:
    """Draws `count` of N images at random, without repeats.

    The same seed draws the same ones of as many, and a smaller count some of those that
    a larger one draws.

    Args:
      count: how many, at most N.
      num_examples: N.
      seed: of the run.
      purpose: a number that sets this draw apart from what else the seed decides.

    Returns:
      int [count], in ascending order.
    """
    # NumPy may change its permutation, but not the bits of Philox.
    random = np.random.Philox(key=np.array([seed % 2**64, purpose], np.uint64))
    order = np.argsort(random.random_raw(num_examples), kind="stable")
    return np.sort(order[:count])
