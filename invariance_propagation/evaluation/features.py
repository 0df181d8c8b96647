"""Embeds whole splits with the encoder in evaluation mode."""

from collections.abc import Callable

import jax
import numpy as np
import tqdm
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
    bar: str | None = None,
) -> Embed:
    """Compiles a pass over a split.

    Args:
      runner: maps the pass over devices.
      encoder: returns `Outputs`.
      view: uint8 [b, H, W, C] -> float32, without randomness.
      batch_size: images at once over all devices, rounded up to a multiple of their
        number; the last batch is padded.
      bar: title of a progress bar, shown on a terminal; None: there is no bar.

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
    share = runner.share(batch_size)
    size = share.stop - share.start
    shown = {
        "desc": bar,
        "unit": "image",
        "unit_scale": batch_size,
        "disable": None if bar else True,
        "leave": False,
    }

    def embed(params: dict, batch_stats: dict, images: np.ndarray) -> Outputs:
        parts = []
        for start in tqdm.tqdm(range(0, len(images), batch_size), **shown):
            count = min(batch_size, len(images) - start)
            first, last = (start + min(x, count) for x in (share.start, share.stop))
            chunk = images[first:last]
            rest = [(0, size - len(chunk))] + [(0, 0)] * (chunk.ndim - 1)
            placed = runner.put_share(np.pad(chunk, rest))
            outputs = mapped(params, batch_stats, placed)
            parts.append(runner.fetch(outputs, Outputs(SHARDED, SHARDED), count))
        return Outputs(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    return embed


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Scales each row of float [..., d] to length 1; returns float64 [..., d].

    A row of zeros stays as it is. Rows of any finite length are scaled correctly. A row
    with NaN has NaN, and so has one with infinity.
    """
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore"):  # infinity / infinity is NaN
        # Two divisions, so that no square overflows or vanishes.
        x = x / np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.finfo(float).tiny)
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
