"""Embeds whole splits with the encoder in evaluation mode."""

from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn

from invariance_propagation.devices.runner import Runner
from invariance_propagation.models.encoder import Outputs
from invariance_propagation.parallel import REPLICATED, SHARDED

Embed = Callable[[dict, dict, np.ndarray], Outputs]


def make_embed(
    runner: Runner,
    encoder: nn.Module,
    view: Callable[[jax.Array], jax.Array],
    *,
    batch_size: int = 512,
) -> Embed:
    """Compiles a pass over a split.

    Args:
      runner: maps the pass over devices.
      encoder: returns `Outputs`.
      view: uint8 [b, H, W, C] -> float32, without randomness.
      batch_size: images at once over all devices, rounded up to a multiple of their
        number; the last batch is padded.

    Returns:
      (params, batch_stats, uint8 [n, H, W, C]) -> Outputs of float32 host arrays
      with n rows.
    """

    def forward(params: dict, batch_stats: dict, images: jax.Array) -> Outputs:
        variables = {"params": params, "batch_stats": batch_stats}
        return encoder.apply(variables, view(images), train=False)

    specs = (REPLICATED, REPLICATED, SHARDED)
    mapped = runner.compile(forward, specs, Outputs(SHARDED, SHARDED))
    batch_size += -batch_size % runner.num_devices
    own = runner.share(batch_size)
    size = own.stop - own.start

    def embed(params: dict, batch_stats: dict, images: np.ndarray) -> Outputs:
        parts = []
        for start in range(0, len(images), batch_size):
            count = min(batch_size, len(images) - start)
            chunk = images[start + min(own.start, count) : start + min(own.stop, count)]
            rest = [(0, size - len(chunk))] + [(0, 0)] * (chunk.ndim - 1)
            placed = runner.put_share(np.pad(chunk, rest))
            outputs = mapped(params, batch_stats, placed)
            parts.append(runner.fetch(outputs, Outputs(SHARDED, SHARDED), count))
        return Outputs(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    return embed
