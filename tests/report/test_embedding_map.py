"""Maps keep close points close, and name the classes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from invariance_propagation.report import embedding_map
from invariance_propagation.report.health import unit_rows


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.repeat([2, 5, 7], 20)
    return unit_rows(4 * np.eye(8)[labels] + random.normal(size=(60, 8))), labels


@pytest.fixture(scope="module")
def projections(clusters) -> dict[str, np.ndarray]:
    return embedding_map.project(clusters[0])


def test_pca_is_that_of_the_singular_vectors(clusters, projections) -> None:
    rows, _ = clusters
    off = rows - rows.mean(axis=0)
    _, values, axes = np.linalg.svd(off)
    share = np.sum(values[:2] ** 2) / np.sum(values**2)
    points = projections[f"PCA ({share:.0%} of the variance)"]
    expected = off @ axes[:2].T
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-6)


def test_tsne_leaves_neighbours_together(clusters, projections) -> None:
    _, labels = clusters
    points = projections["t-SNE"]
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert np.mean(labels[apart.argmin(axis=1)] == labels) > 0.95


def test_a_machine_that_does_not_tell_its_cores_is_no_warning() -> None:
    """joblib counts physical cores by lscpu, then by cat: PATH leads to neither."""
    program = (
        "import os, numpy as np\n"
        "from invariance_propagation.report.embedding_map import project\n"
        "rows = np.random.default_rng(0).normal(size=(60, 8))\n"
        "assert project(rows)['t-SNE'].shape == (60, 2)\n"
        "print(os.environ.get('OMP_NUM_THREADS'))\n"
    )
    usual = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    for variables, kept in (({}, "None"), ({"OMP_NUM_THREADS": "3"}, "3")):
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", program],
            env=usual | {"PATH": "/nowhere"} | variables,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{kept}\n", "")


def test_few_images_can_be_mapped() -> None:
    for points in embedding_map.project(np.eye(embedding_map.FEWEST)).values():
        assert points.shape == (4, 2) and np.isfinite(points).all()


def test_classes_are_named_where_they_lie(clusters) -> None:
    _, labels = clusters
    points = np.random.default_rng(0).normal(size=(60, 2))
    (axes,) = embedding_map.draw("PCA", points, labels).axes
    assert [text.get_text() for text in axes.texts] == ["2", "5", "7"]
    named = embedding_map.draw("PCA", points, labels, "abcdefgh".__getitem__)
    assert [text.get_text() for text in named.axes[0].texts] == ["c", "f", "h"]
    place = np.median(points[labels == 5], axis=0)
    np.testing.assert_allclose(axes.texts[1].get_position(), place)
    marks = [tuple(x.get_facecolor()[0]) for x in axes.collections]
    assert len(set(marks)) == 3
    assert [len(x.get_offsets()) for x in axes.collections] == [20, 20, 20]


def test_more_classes_than_marks_are_drawn_alike() -> None:
    count = embedding_map.MOST_CLASSES + 1
    for labels in (np.arange(count), None):
        (axes,) = embedding_map.draw("PCA", np.zeros((count, 2)), labels).axes
        assert not axes.texts and len(axes.collections) == 1


def test_the_degrees_are_counted() -> None:
    (axes,) = embedding_map.draw_degrees(np.array([0, 2, 2, 5]), "run").axes
    low, high = axes.get_ylim()
    assert low == 0.5 and high >= 2
    heights = {round(bar.get_x()): bar.get_height() for bar in axes.patches}
    assert {at: n for at, n in heights.items() if n} == {0: 1, 2: 2, 5: 1}
