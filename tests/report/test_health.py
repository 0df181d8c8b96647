"""Compares health numbers with slow definitions and known answers."""

import math

import numpy as np
import pytest
import scipy.stats

from invariance_propagation.report import health


def unit_normal(count: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def random_graph(count: int, num_neighbors: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    others = [np.delete(np.arange(count), i) for i in range(count)]
    return np.array([random.choice(x, num_neighbors, replace=False) for x in others])


@pytest.mark.parametrize("count, dim", [(7, 3), (5, 9)])
def test_effective_rank_is_the_oracle(count: int, dim: int) -> None:
    x = unit_normal(count, dim)
    # The squares of the singular values are the eigenvalues of x x^T.
    values = np.linalg.eigvalsh(x @ x.T).clip(min=0) ** 0.5
    parts = [value / values.sum() for value in values if value > 1e-7]
    expected = math.exp(-sum(part * math.log(part) for part in parts))
    assert health.effective_rank(x) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_known_spectra() -> None:
    axes = np.eye(6)
    assert health.effective_rank(axes) == pytest.approx(6)
    assert health.effective_rank(axes[[2] * 9]) == pytest.approx(1)
    # Four rows on one axis and one on another: singular values 2 and 1.
    expected = math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert health.effective_rank(axes[[0, 0, 0, 0, 1]]) == pytest.approx(expected)


def test_uniformity_and_similarity_are_the_oracles() -> None:
    x = unit_normal(8, 3)
    close = [math.exp(-2 * sum((x[i] - x[j]) ** 2)) for i, j in pairs(8)]
    assert health.uniformity(x) == pytest.approx(math.log(np.mean(close)))
    cosines = [sum(x[i] * x[j]) for i, j in pairs(8)]
    assert health.mean_similarity(x) == pytest.approx(np.mean(cosines))


def test_uniformity_and_similarity_of_known_places() -> None:
    axes = np.eye(4)
    assert health.uniformity(axes[[1, 1, 1]]) == pytest.approx(0)
    assert health.uniformity(axes) == pytest.approx(-4)  # squared distances of 2
    assert health.uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert health.mean_similarity(axes[[1, 1, 1]]) == pytest.approx(1)
    assert health.mean_similarity(axes) == pytest.approx(0)
    assert health.mean_similarity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-1)


def test_in_degree_is_the_oracle() -> None:
    graph = random_graph(9, 3)
    graph[4] = 4  # not visited yet
    expected = [0] * 9
    for i, row in enumerate(graph):
        for j in row:
            expected[j] += i != j
    assert health.in_degree(graph).tolist() == expected


def test_skewness_is_scipys() -> None:
    values = np.array([0, 1, 1, 2, 9])
    assert health.skewness(values) == pytest.approx(scipy.stats.skew(values))
    assert health.skewness(np.array([4, 4, 4])) == 0


def test_rows_are_made_unit_and_zeros_stay() -> None:
    rows = health.unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])


def test_products_of_unit_rows_are_cosines() -> None:
    rows = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32)
    unit = health.unit_rows(rows)
    for anchor in (0, 7):
        for other, similarity in enumerate(unit @ unit[anchor]):
            a, b = rows[anchor].tolist(), rows[other].tolist()
            product = sum(x * y for x, y in zip(a, b, strict=True))
            length = sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5
            assert similarity == pytest.approx(product / length, abs=1e-6)


@pytest.mark.parametrize("count, most", [(5, 9), (10, 5), (7, 3), (1, 1)])
def test_spread_is_even(count: int, most: int) -> None:
    found = health.spread(count, most)
    assert len(found) == min(count, most)
    assert 0 <= found[0] and found[-1] < count
    steps = np.diff(found)
    if len(steps):
        assert steps.min() >= 1 and np.ptp(steps) <= 1


def test_a_sound_memory_is_not_warned_of() -> None:
    found = health.measure(7 * unit_normal(200, 32), random_graph(200, 4))
    assert (found.dim, found.degrees.unvisited) == (32, 0)
    assert found.rank > 25 and found.uniformity < -3 and abs(found.similarity) < 0.1
    degrees = found.degrees
    assert degrees.counts.sum() == 800
    assert degrees.most_named == degrees.counts.max() / 199
    assert degrees.never_named == np.mean(degrees.counts == 0) > 0
    assert health.warnings(found) == []
    # Without neighbours the other numbers are the same.
    assert health.measure(7 * unit_normal(200, 32), None) == found._replace(
        degrees=None
    )


def test_a_collapse_to_a_point_is_told() -> None:
    bank = 1 + 0.02 * np.random.default_rng(0).normal(size=(100, 16))
    found = health.measure(bank, random_graph(100, 3))
    sentences = health.warnings(found)
    assert len(sentences) == 2
    assert "dimensions" in sentences[0] and "one point" in sentences[1]


def test_a_collapse_onto_a_plane_is_told() -> None:
    # In two dimensions of many, but all around: only the rank shows it.
    bank = np.zeros((100, 16))
    bank[:, :2] = unit_normal(100, 2)
    (sentence,) = health.warnings(health.measure(bank, random_graph(100, 3)))
    assert sentence.startswith("The embeddings fill only 2.0 of 16 dimensions")


def test_a_hub_is_told() -> None:
    graph = random_graph(100, 3)
    graph[1:31, 0] = 0
    (sentence,) = health.warnings(health.measure(unit_normal(100, 16), graph))
    assert "hub" in sentence


def test_images_that_were_not_visited_are_told() -> None:
    graph = random_graph(100, 3)
    graph[20:45] = np.arange(20, 45)[:, None]
    found = health.measure(unit_normal(100, 16), graph)
    assert found.degrees.unvisited == 0.25
    (sentence,) = health.warnings(found)
    assert sentence.startswith("25.0% of the images have no neighbours yet")
