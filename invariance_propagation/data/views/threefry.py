"""Draws jax.random's uniform numbers on the host with NumPy, bit for bit.

JAX's default generator is Threefry 2x32 with 20 rounds (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", 2011). This module has only the part that views need.
"""

import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def host_uniforms(
    seed: int,
    epoch: int,
    indices: np.ndarray,
    shape: tuple[int, ...],
    *,
    view: int = 0,
) -> np.ndarray:
    """Draws float32 [n, *shape] in [0, 1) for the images `indices`, int [n], in `epoch`.

    They are what `jax.random.uniform` draws from `keys_of_view(per_image_keys(...), view)`,
    bit for bit.
    """
    zero = np.zeros(1, np.uint32)
    words = np.array([[seed], [epoch]]).astype(np.uint32)
    key = _hash(
        _hash((zero, words[0]), zero, words[1]), zero, indices.astype(np.uint32)
    )
    if view:
        key = _hash(key, zero, np.array([view], np.uint32))
    counts = np.arange(np.prod(shape), dtype=np.uint32)
    high, low = _hash(tuple(word[:, None] for word in key), zero, counts)
    # 23 random bits, with the exponent of [1, 2).
    bits = ((high ^ low) >> np.uint32(9)) | np.float32(1).view(np.uint32)
    return (bits.view(np.float32) - np.float32(1)).reshape(-1, *shape)


def _hash(
    key: tuple[np.ndarray, np.ndarray], high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes the counters (high, low), uint32, which broadcast with `key`."""
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    high, low = np.broadcast_arrays(high + key[0], low + key[1])
    high, low = high.copy(), low.copy()
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            high += low
            left, right = np.uint32(rotation), np.uint32(32 - rotation)
            low = high ^ ((low << left) | (low >> right))
        high += schedule[(block + 1) % 3]
        low += schedule[(block + 2) % 3]
        low += np.uint32(block + 1)
    return high, low
