"""What the next step depends on: arrays only, no optimiser object and no rng."""

from typing import Any, NamedTuple

import jax

from invariance_propagation import parallel


class TrainState(NamedTuple):
    """Everything that a step reads and writes.

    Attributes:
      step: int32 [], steps done.
      params: of the encoder, replicated.
      batch_stats: running statistics of BatchNorm, averaged over devices.
      opt_state: of Optax.
      memory: of the method; what has a row per image is sharded.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    memory: Any


def state_spec(memory_spec: Any) -> TrainState:
    """Which leaves are replicated and which sharded; one tree for every use."""
    whole = parallel.REPLICATED
    return TrainState(whole, whole, whole, whole, memory_spec)
