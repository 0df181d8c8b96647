"""Tests what is told about clusters against counts by hand."""

import numpy as np
import pytest

from invariance_propagation.methods import clusters
from invariance_propagation.report.health import spread

CLUSTERS = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3], np.int32)
LABELS = np.array([7, 7, 2, 2, 2, 7, 2, 5, 5])
MEMORY = {"labels": CLUSTERS}


def clusters_of(memory: dict) -> np.ndarray:
    return memory["labels"]


def slow_nmi(one: np.ndarray, two: np.ndarray) -> float:
    def entropy(x: list) -> float:
        shares = [x.count(value) / len(x) for value in set(x)]
        return -sum(p * np.log(p) for p in shares)

    a, b = one.tolist(), two.tolist()
    together = list(zip(a, b, strict=True))
    shared = entropy(a) + entropy(b) - entropy(together)
    return shared / ((entropy(a) + entropy(b)) / 2)


def test_purity_counts_the_most_frequent_label_of_each_cluster() -> None:
    measure = clusters.measure
    found = measure(MEMORY, LABELS, np.arange(9), clusters_of=clusters_of)
    assert found["cluster_purity"] == pytest.approx((2 + 2 + 2) / 9)
    assert found["cluster_nmi"] == pytest.approx(slow_nmi(LABELS, CLUSTERS))


def test_a_sample_is_scored_by_the_clusters_of_all_images() -> None:
    some = np.array([2, 3, 5])  # alone in their clusters, each would be pure
    found = clusters.measure(MEMORY, LABELS, some, clusters_of=clusters_of)
    assert found["cluster_purity"] == pytest.approx(1 / 3)
    assert found["cluster_nmi"] == pytest.approx(slow_nmi(LABELS[some], CLUSTERS[some]))


def test_an_anchor_stands_beside_the_others_of_its_cluster() -> None:
    similarities = np.linspace(0, 1, 9)
    (strip,), note = clusters.strips(MEMORY, 6, similarities, clusters_of=clusters_of)
    assert strip.title == "cluster 3, by similarity"
    assert strip.indices.tolist() == [8, 7, 5]
    assert note == "4 images are in this cluster"
    (strip,), _ = clusters.strips(MEMORY, 6, None, clusters_of=clusters_of)
    assert strip.title == "cluster 3" and strip.indices.tolist() == [5, 7, 8]


def test_rows_and_summary_are_told_in_words() -> None:
    row = {"label_changes": 0.25, "largest_cluster": 40.0, "smallest_cluster": 3.0}
    assert clusters.brief(row) == ["changed 25.00 %", "clusters of 3 to 40"]
    scores = {"cluster_purity": 0.5, "cluster_nmi": 0.25}
    assert clusters.brief(row | scores)[-1] == "purity 0.500"
    assert clusters.table(scores)[1:] == [
        "  purity: 50.00 %",
        "  normalised mutual information: 0.250",
    ]
    assert clusters.table({}) == []
    sizes = clusters.size_metrics(np.array([3, 40, 9], np.int32))
    assert sizes == {"largest_cluster": 40, "smallest_cluster": 3}


def test_anchors_come_from_clusters_of_all_sizes() -> None:
    # Cluster 3 has four images, 0 three, 1 two, and 2 none.
    found = clusters.anchors(MEMORY, clusters_of=clusters_of)
    assert found[spread(len(found), 9)].tolist() == found.tolist() == [5, 0, 3]
    assert found[spread(len(found), 2)].tolist() == [5, 3]
    without = {"labels": np.array([-1, 4, -1, 4])}
    assert clusters.anchors(without, clusters_of=clusters_of).tolist() == [1]


def test_the_report_has_sizes_and_scores_of_the_end() -> None:
    sizes = {"smallest_cluster": 0.0, "largest_cluster": 1200.0}
    rows = [
        sizes | {"largest_cluster": 7.0, "cluster_purity": 0.25, "cluster_nmi": 0.125},
        {"knn": 0.5},
        sizes,
    ]
    found = clusters.outcome(rows, {}, {})
    assert list(found.values()) == ["0 to 1,200", "25.00 %", "0.125"]
    summary = {"cluster_purity": 0.5, "cluster_nmi": 0.75}
    assert [*clusters.outcome(rows, summary, {}).values()][1:] == ["50.00 %", "0.750"]
    assert clusters.outcome([{"knn": 0.5}], {}, {}) == {}
