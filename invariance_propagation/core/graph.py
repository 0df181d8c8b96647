"""The k-nearest-neighbour graph, and the walk along it.

The graph is int32 [N, k]. Row i holds the ids of the k training images that were most
similar to image i when i was last visited. Usually every device has the whole graph, and
walking along it needs no communication. For hundreds of millions of images its rows can be
sharded like those of the bank: `propagate_sharded` walks along this device's rows, int32
[Np / D, k], and `parallel.put_rows` replaces them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation import parallel
from invariance_propagation.core.arguments import check_ids, integer


def init_graph(num_examples: int, num_neighbors: int) -> jax.Array:
    """Makes the graph of images that have not been visited: row i is i, i, ..., i.

    Such a row leads only to the anchor itself. It has no positives, so propagation adds
    nothing until the row is first replaced.

    Returns:
      int32 [N, k].

    Raises:
      ValueError: k is below 1 or above N - 1.
    """
    num_examples = integer("num_examples", num_examples, least=2)
    num_neighbors = integer("num_neighbors", num_neighbors)
    if num_neighbors >= num_examples:
        raise ValueError(
            f"num_neighbors={num_neighbors}, but there are {num_examples} images: set it "
            f"from 1 to {num_examples - 1}"
        )
    ids = jnp.arange(num_examples, dtype=jnp.int32)[:, None]
    return jnp.broadcast_to(ids, (num_examples, num_neighbors))


def propagate(graph: jax.Array, indices: jax.Array, *, num_hops: int = 3) -> jax.Array:
    """Walks the graph from each anchor and lists the images it reaches (1).

    Args:
      graph: int32 [N, k].
      indices: int [b], the anchors' ids, in [0, N).
      num_hops: l, at least 1.

    Returns:
      int32 [b, slots], slots = k + k^2 + ... + k^l: the k ids of the first hop,
      then the k^2 ids of the second, and so on. Ids may repeat, and an anchor may
      reach itself; `distinct` tells which slots to keep.

    Raises:
      ValueError: num_hops is below 1; an id is not in [0, N) (checked only outside of
        `jit`, where ids are known); a dtype or shape is wrong.

    Source: Wang et al. 2020 (arXiv 2010.11694); the authors' code concatenates hops
    in this order.

    >>> import numpy as np
    >>> graph = np.array([[1, 2], [2, 0], [0, 1]])
    >>> print(propagate(graph, np.array([0]), num_hops=2))
    [[1 2 2 0 0 1]]
    """
    num_hops = integer("num_hops", num_hops)
    check_ids("graph", graph, ndim=2, below=len(graph))
    check_ids("indices", indices, ndim=1, below=len(graph))
    return _walk(jnp.asarray(graph, jnp.int32), jnp.asarray(indices), num_hops)


@partial(jax.jit, static_argnums=2)
def _walk(graph: jax.Array, indices: jax.Array, num_hops: int) -> jax.Array:
    frontier = indices[:, None]
    hops = []
    for _ in range(num_hops):
        frontier = graph[frontier].reshape(frontier.shape[0], -1)
        hops.append(frontier)
    return jnp.concatenate(hops, axis=1)


def propagate_sharded(
    graph: jax.Array, indices: jax.Array, *, num_hops: int, axis_name: str | None
) -> jax.Array:
    """Walks a sharded graph as `propagate` does, with one collective for each hop.

    Every device looks up the rows that it holds for all anchors; the sum over devices
    completes a hop, int32 [B, k^h] for hop h.

    Args:
      graph: int32 [Np / D, k], this device's rows.
      indices: int32 [B], the anchors of all devices, in [0, N).
      num_hops: l, at least 1.
      axis_name: the device axis, or None for one device.

    Returns:
      int32 [B, slots], the same on every device.
    """
    frontier = indices[:, None]
    hops = []
    for _ in range(num_hops):
        frontier = parallel.take_rows(graph, frontier, axis_name)
        frontier = frontier.reshape(len(indices), -1)
        hops.append(frontier)
    return jnp.concatenate(hops, axis=1)


def distinct(positives: jax.Array, indices: jax.Array) -> jax.Array:
    """Marks the slots that make the ids a set: first occurrences, without the anchor.

    Args:
      positives: int [b, slots], as `propagate` returns them.
      indices: int [b], the anchors' ids.

    Returns:
      bool [b, slots].

    Raises:
      ValueError: a dtype or shape is wrong.

    >>> import numpy as np
    >>> print(distinct(np.array([[1, 2, 2, 0, 0, 1]]), np.array([0])))
    [[ True  True False False False False]]
    """
    check_ids("positives", positives, ndim=2)
    check_ids("indices", indices, ndim=1)
    if len(positives) != len(indices):
        raise ValueError(
            f"positives has {len(positives)} rows but indices has {len(indices)} ids: "
            "pass one row for each anchor"
        )
    return _first_of_each(jnp.asarray(positives), jnp.asarray(indices))


@jax.jit
def _first_of_each(positives: jax.Array, indices: jax.Array) -> jax.Array:
    # With so few slots, comparing all pairs is ten times as fast as sorting on a CPU.
    place = jnp.arange(positives.shape[1], dtype=jnp.int32)
    earlier = place[None, :] < place[:, None]
    same = positives[:, :, None] == positives[:, None, :]
    return ~jnp.any(same & earlier, axis=2) & (positives != indices[:, None])


def match_graph(graph: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Carries a graph over to a changed set of images.

    A neighbour that is gone is replaced by the id of the image itself, as in
    `init_graph`. That adds no positive, and the other neighbours keep their places. The
    row of a new image holds only its id. Each row is replaced as a whole when its image
    is next visited.

    Args:
      graph: int32 [n, k], the graph of the earlier images.
      rows: int32 [N], for each present image its row in `graph`, -1 for a new image. No
        row occurs twice.

    Returns:
      int32 [N, k], a NumPy array.
    """
    kept = np.flatnonzero(rows >= 0)
    places = np.full(len(graph), -1, np.int32)
    places[rows[kept]] = kept
    ids = np.arange(len(rows), dtype=np.int32)[:, None]
    neighbors = places[graph[rows[kept]]]
    matched = np.repeat(ids, graph.shape[1], axis=1)
    matched[kept] = np.where(neighbors < 0, ids[kept], neighbors)
    return matched


def update_graph(
    graph: jax.Array,
    indices: jax.Array,
    neighbors: jax.Array,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    """Replaces the anchors' rows by their new neighbours (9).

    Args:
      graph: int32 [N, k], the same on every device.
      indices: int [b], this device's anchors; all ids differ over all devices.
      neighbors: int [b, k], the anchors' new neighbours.
      axis_name: the device axis, or None for one device.

    Returns:
      int32 [N, k]; other rows are unchanged.

    Raises:
      ValueError: an id is not in [0, N) or occurs twice among `indices` (checked only
        outside of `jit`, where ids are known); a dtype or shape is wrong.
    """
    check_ids("graph", graph, ndim=2, below=len(graph))
    count, width = np.shape(graph)
    check_ids("indices", indices, ndim=1, below=count, unique=True)
    check_ids("neighbors", neighbors, ndim=2, below=count)
    if np.shape(neighbors) != (len(indices), width):
        raise ValueError(
            f"neighbors has the shape {list(np.shape(neighbors))}: pass "
            f"{[len(indices), width]}, a row of the graph for each of indices"
        )
    rows = parallel.all_gather(jnp.asarray(neighbors, jnp.int32), axis_name)
    return (
        jnp.asarray(graph, jnp.int32)
        .at[parallel.all_gather(jnp.asarray(indices), axis_name)]
        .set(rows, unique_indices=True)
    )
