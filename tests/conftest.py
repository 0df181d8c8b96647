"""Eight CPU devices for every test, and the one maker of random problems."""

import jax

jax.config.update('jax_num_cpu_devices', 8)  # only possible before the first JAX operation, hence above all other imports

from collections.abc import Callable  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402


class Problem(NamedTuple):
    """The four arrays the objective reads, in the order in which `invp_losses` takes them."""

    embeddings: np.ndarray  # [b, d] float32, not normalised
    indices: np.ndarray  # [b] int32, all different
    bank: np.ndarray  # [N, d] float32
    graph: np.ndarray  # [N, k] int32, no row names itself


def random_problem(
    seed: int,
    *,
    num_examples: int = 40,
    batch: int = 6,
    dim: int = 8,
    num_neighbors: int = 4,
    anchors: str = 'near',
) -> Problem:
    """`anchors`: the embedding lies 'near' its bank row, 'far' (opposite) from it, or 'anywhere'."""
    rng = np.random.default_rng(seed)
    bank = rng.normal(size=(num_examples, dim))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    bank[::3] *= rng.uniform(0.6, 1.3, size=(len(bank[::3]), 1))  # rows not visited yet are not of unit norm
    indices = rng.permutation(num_examples)[:batch]
    noise = rng.normal(size=(batch, dim)) / np.sqrt(dim)
    embeddings = {'near': 1.0, 'far': -1.0, 'anywhere': 0.0}[anchors] * bank[indices] + 0.7 * noise
    embeddings *= rng.uniform(0.5, 3.0, size=(batch, 1))
    graph = [rng.choice(np.delete(np.arange(num_examples), i), num_neighbors, replace=False) for i in range(num_examples)]
    return Problem(embeddings.astype(np.float32), indices.astype(np.int32), bank.astype(np.float32), np.array(graph, np.int32))


@pytest.fixture(scope='session')
def make_problem() -> Callable[..., Problem]:
    return random_problem
