"""What methods that cluster the training images tell about their clusters."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from invariance_propagation.errors import percent
from invariance_propagation.methods.base import (
    Gallery,
    Memory,
    Notes,
    Panel,
    Row,
    Strip,
)
from invariance_propagation.methods.measures import most_similar

PANELS = (
    Panel(
        "Loss",
        "per image",
        {"loss": ""},
        "The loss that training minimises. It also changes with the clusters, which are "
        "what it is measured against.",
    ),
    Panel(
        "Images that changed cluster",
        "% of a batch",
        {"label_changes": ""},
        "The share of images whose cluster has changed since their last visit. It falls "
        "as the clusters settle.",
        100,
        from_zero=True,
    ),
    Panel(
        "Sizes of clusters",
        "images",
        {"largest_cluster": "largest", "smallest_cluster": "smallest"},
        "If the largest grows until it holds most images, the clusters have collapsed.",
        from_zero=True,
    ),
    Panel(
        "Purity of clusters",
        "% of images",
        {"cluster_purity": ""},
        "The share of images whose label is the most frequent one of their cluster. "
        "Labels are used for this plot only. Many small clusters are pure by chance.",
        100,
    ),
)


def sizes_of(labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Counts the images of each cluster, int32 [K], on the host; -1 counts for nothing."""
    return np.bincount(labels[labels >= 0], minlength=num_clusters).astype(np.int32)


def size_metrics(sizes: jax.Array) -> dict[str, jax.Array]:
    """Returns the largest and the smallest of cluster sizes [K], as metrics of a step."""
    sizes = sizes.astype(np.float32)
    return {"largest_cluster": sizes.max(), "smallest_cluster": sizes.min()}


def cluster_notes(clusters_of: Callable[[Memory], np.ndarray], **more: Any) -> Notes:
    """Makes the notes of a method that clusters.

    Its steps must log 'label_changes' and what `size_metrics` returns.

    Args:
      clusters_of: memory -> int [N], the cluster of each image.
      **more: other fields of `Notes`.
    """
    return Notes(
        brief=brief,
        measure=partial(measure, clusters_of=clusters_of),
        table=table,
        outcome=outcome,
        panels=PANELS,
        gallery=Gallery(
            title="Clusters",
            legend="Some clusters of all sizes, large ones first: for each, one of its "
            "images as anchor, and others of it.",
            marks={},
            strips=partial(strips, clusters_of=clusters_of),
            anchors=partial(anchors, clusters_of=clusters_of),
        ),
        **more,
    )


def measure(
    memory: Memory,
    labels: np.ndarray,
    indices: np.ndarray,
    *,
    clusters_of: Callable[[Memory], np.ndarray],
) -> dict[str, float]:
    """Compares clusters with labels.

    Args:
      memory: of the method.
      labels: int [N].
      indices: int [n], the images to score.
      clusters_of: as for `cluster_notes`.

    Returns:
      'cluster_purity', the share of the n images whose label is the most frequent one of
      their cluster (which all N images determine; the smaller label of two that are
      equally frequent), and 'cluster_nmi', the normalised mutual information of clusters
      and labels of the n images, by the arithmetic mean of both entropies.
    """
    from sklearn.metrics import normalized_mutual_info_score  # slow to import

    clusters = np.asarray(clusters_of(memory))
    labels = np.unique(labels, return_inverse=True)[1]
    shape = clusters.max() + 1, labels.max() + 1
    pairs = np.bincount(clusters * shape[1] + labels, minlength=shape[0] * shape[1])
    frequent = pairs.reshape(shape).argmax(axis=1)
    here, wanted = clusters[indices], labels[indices]
    return {
        "cluster_purity": float((frequent[here] == wanted).mean()),
        "cluster_nmi": float(normalized_mutual_info_score(wanted, here)),
    }


def brief(row: Row) -> list[str]:
    """Returns how many images changed cluster, and the sizes of clusters."""
    smallest, largest = row["smallest_cluster"], row["largest_cluster"]
    phrases = [
        f"changed {percent(row['label_changes'])}",
        f"clusters of {smallest:.0f} to {largest:.0f}",
    ]
    if "cluster_purity" in row:
        phrases.append(f"purity {row['cluster_purity']:.3f}")
    return phrases


def table(summary: Row) -> list[str]:
    """Lists how the clusters compare with the labels."""
    if "cluster_purity" not in summary:
        return []
    return [
        "clusters against labels",
        f"  purity: {percent(summary['cluster_purity'])}",
        f"  normalised mutual information: {summary['cluster_nmi']:.3f}",
    ]


def outcome(
    rows: Sequence[Row], summary: Row, options: Mapping[str, Any]
) -> dict[str, str]:
    """Says how large the clusters are, and how they compare with the labels."""
    del options
    facts = {}
    logged = [row for row in rows if "largest_cluster" in row]
    if logged:
        last = logged[-1]
        facts["images in a cluster"] = (
            f"{last['smallest_cluster']:,.0f} to {last['largest_cluster']:,.0f}"
        )
    # The summary measures all images, a row of metrics.jsonl only some.
    measured = [row for row in (*rows, summary) if "cluster_purity" in row]
    if measured:
        facts["purity of the clusters"] = percent(measured[-1]["cluster_purity"])
        facts["their normalised mutual information with the labels"] = (
            f"{measured[-1]['cluster_nmi']:.3f}"
        )
    return facts


def anchors(
    memory: Memory, *, clusters_of: Callable[[Memory], np.ndarray]
) -> np.ndarray:
    """Returns the first image of each cluster that has one, int [n], largest cluster first."""
    clusters = np.asarray(clusters_of(memory))
    found, first, sizes = np.unique(clusters, return_index=True, return_counts=True)
    first, sizes = first[found >= 0], sizes[found >= 0]
    return first[np.argsort(-sizes, kind="stable")]


def strips(
    memory: Memory,
    anchor: int,
    similarities: np.ndarray | None,
    *,
    clusters_of: Callable[[Memory], np.ndarray],
) -> tuple[list[Strip], str]:
    """Shows the other images of an anchor's cluster; see `Gallery.strips`."""
    clusters = np.asarray(clusters_of(memory))
    cluster = clusters[anchor]
    others = np.flatnonzero(clusters == cluster)
    others = others[others != anchor]
    title = f"cluster {cluster}"
    if similarities is not None:
        others, title = (
            most_similar(similarities, among=others),
            f"{title}, by similarity",
        )
    return [Strip(title, others)], f"{len(others) + 1:,} images are in this cluster"
