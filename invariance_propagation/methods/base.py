"""What a method is to the trainer: a tuple of pure functions.

In the manner of `optax.GradientTransformation`: hyper-parameters are already
bound, state is arrays, and the trainer never asks for the method's name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Batch(NamedTuple):
    """One device's share of a step.

    Attributes:
      images: float32 [b, H, W, C], augmented views.
      indices: int32 [b], stable positions in the training set.
    """

    images: jax.Array
    indices: jax.Array


class Aux(NamedTuple):
    """What `loss` hands on beside the loss.

    Attributes:
      metrics: scalars to log, by name; averaged over devices by the trainer.
      found: anything `update_memory` wants to see again.
    """

    metrics: dict[str, jax.Array]
    found: Any


class Method(NamedTuple):
    """A self-supervised method.

    Attributes:
      init_memory: (key, embeddings=None) -> pytree of arrays, () for a method
        without memory. `embeddings`, float32 [N, d], is given when
        `needs_embeddings` says so.
      memory_spec: the same tree of `REPLICATED` and `SHARDED`.
      needs_embeddings: whether memory starts from one pass of the encoder.
      loss: (outputs, batch, memory, step) -> (float32 [b], Aux); outputs are what
        the encoder returns, step is int32 [].
      update_memory: (memory, outputs, batch, aux, step) -> memory, every step.
      match_memory: (memory, rows, embeddings) -> memory for other training images, of
        which there may be more or fewer; all of them host arrays in global shapes. `rows`,
        int32 [N], is the place of each image among the earlier ones, -1 for a new one;
        `embeddings`, float32 [m, d], are of the new ones, in their order. None: a run
        with memory cannot go on with other images.
      prepare: (key, batch) -> batch, for mixing; the same key on all devices.
      purity: (memory, labels [N], indices [n]) -> float32 [l + 1], the share of
        positives with the anchor's label per hop and over all; None for a method
        that has no positives but the image itself. A diagnostic only, which may read
        what is replicated of the memory.
      buffers: (batch_size, num_devices) -> bytes by name, the largest arrays that
        `loss` holds on each device while it runs; for the memory plan.
      about: what a run says of it at its start; '' for nothing.
      start_epoch: the first epoch of a term that is off before; None if there is none,
        or it starts by itself.
      fewest_examples: that it can train on.
    """

    init_memory: Callable
    memory_spec: Any
    needs_embeddings: bool
    loss: Callable
    update_memory: Callable
    match_memory: Callable | None = None
    prepare: Callable = lambda key, batch: batch
    purity: Callable | None = None
    buffers: Callable = lambda batch_size, num_devices: {}
    about: str = ""
    start_epoch: int | None = None
    fewest_examples: int = 1
