"""The k-nearest-neighbour graph and the walk along it.

The graph is int32 [N, k]: row i holds the ids of the k training images most
similar to image i when i was last visited. It is replicated, so that the walk
is gathers with no communication.
"""

from functools import partial

import jax
import jax.numpy as jnp

from invariance_propagation import parallel


def init_graph(num_examples: int, num_neighbors: int) -> jax.Array:
    """A graph in which nobody has been visited: row i is i, i, ..., i.

    Such a row has no positives but the anchor itself, so that propagation adds
    nothing until the row is first replaced.

    Returns:
      int32 [N, k].
    """
    own = jnp.arange(num_examples, dtype=jnp.int32)[:, None]
    return jnp.broadcast_to(own, (num_examples, num_neighbors))


@partial(jax.jit, static_argnames="num_hops")
def propagate(graph: jax.Array, indices: jax.Array, *, num_hops: int = 3) -> jax.Array:
    """Walks the graph from each anchor and lists everything it reaches.

    Args:
      graph: int32 [N, k].
      indices: int [b], the anchors' ids, in [0, N).
      num_hops: l, at least 1.

    Returns:
      int32 [b, slots], slots = k + k^2 + ... + k^l: the k ids of the first hop,
      then the k^2 of the second, and so on. Repeats stay, and an anchor may
      reach itself; `distinct` tells which to keep.

    Raises:
      ValueError: num_hops < 1.

    Source: Wang et al. 2020 (arXiv 2010.11694); the released code concatenates hops
    in this order.

    >>> import numpy as np
    >>> graph = np.array([[1, 2], [2, 0], [0, 1]])
    >>> print(propagate(graph, np.array([0]), num_hops=2))
    [[1 2 2 0 0 1]]
    """
    if num_hops < 1:
        raise ValueError(f"num_hops={num_hops}: at least 1 hop is needed")
    graph = jnp.asarray(graph, jnp.int32)
    frontier = jnp.asarray(indices)[:, None]
    hops = []
    for _ in range(num_hops):
        frontier = graph[frontier].reshape(frontier.shape[0], -1)
        hops.append(frontier)
    return jnp.concatenate(hops, axis=1)


@jax.jit
def distinct(positives: jax.Array, indices: jax.Array) -> jax.Array:
    """Which slots make the ids a set: first occurrences that are not the anchor.

    Args:
      positives: int [b, slots], as `propagate` returns them.
      indices: int [b], the anchors' ids.

    Returns:
      bool [b, slots].

    >>> import numpy as np
    >>> print(distinct(np.array([[1, 2, 2, 0, 0, 1]]), np.array([0])))
    [[ True  True False False False False]]
    """
    positives, indices = jnp.asarray(positives), jnp.asarray(indices)
    # Slots are few: comparing all pairs is ten times as fast as a sort on a CPU.
    place = jnp.arange(positives.shape[1])
    earlier = place[None, :] < place[:, None]
    same = positives[:, :, None] == positives[:, None, :]
    return ~jnp.any(same & earlier, axis=2) & (positives != indices[:, None])


def update_graph(
    graph: jax.Array,
    indices: jax.Array,
    neighbors: jax.Array,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    """Replaces the anchors' rows by the neighbours just found.

    Args:
      graph: int32 [N, k], the same on every device.
      indices: int [b], this device's anchors; no id twice over all devices.
      neighbors: int [b, k].
      axis_name: the device axis, or None for one device.

    Returns:
      int32 [N, k]; all other rows are untouched.
    """
    rows = parallel.all_gather(jnp.asarray(neighbors, jnp.int32), axis_name)
    return (
        jnp.asarray(graph, jnp.int32)
        .at[parallel.all_gather(jnp.asarray(indices), axis_name)]
        .set(rows, unique_indices=True)
    )
