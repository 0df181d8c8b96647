"""Orders and draws images; the results are functions of a seed alone."""

import numpy as np


def epoch_order(
    *,
    seed: int,
    epoch: int,
    num_examples: int,
    batch_size: int,
    steps: int | None = None,
) -> np.ndarray:
    """Shuffles the images into the batches of one epoch.

    No index appears twice, so none repeats inside a global batch. The tail of the
    shuffle, which does not fill a batch, is dropped; each epoch drops other images.

    Args:
      seed: of the run.
      epoch: from 0.
      num_examples: N.
      batch_size: B, at most N.
      steps: in an epoch; None: N // B. With fewer steps, each epoch leaves out other
        images. With more, the images are shuffled again as often as needed, so an index
        can appear again, but never twice in a batch.

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

    The same seed draws the same images, and a smaller count draws a subset of what a
    larger count draws.

    Args:
      count: how many, at most N.
      num_examples: N.
      seed: of the run.
      purpose: a number that makes this draw independent of the seed's other uses.

    Returns:
      int [count], in ascending order.
    """
    # NumPy may change its permutations, but not the bits of Philox.
    random = np.random.Philox(key=np.array([seed % 2**64, purpose], np.uint64))
    order = np.argsort(random.random_raw(num_examples), kind="stable")
    return np.sort(order[:count])
