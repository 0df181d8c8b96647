"""Draws embeddings in two dimensions, and how often images are named as neighbours."""

import contextlib
import os
from collections.abc import Callable, Iterator

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from invariance_propagation.report.draw import (
    COLORS,
    GRAY,
    MARKERS,
    STYLE,
    literal,
    new_figure,
)

MOST_CLASSES = len(COLORS) * len(MARKERS)
FEWEST = 4  # images that a map needs
PERPLEXITY = 30.0


def project(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Projects unit rows, float [n, d], to two dimensions with PCA and t-SNE.

    Args:
      rows: float [n, d], n at least `FEWEST`.

    Returns:
      float [n, 2] for the name of each projection.
    """
    # Imported here because importing scikit-learn takes a second.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    pca = PCA(2, random_state=0)
    flat = pca.fit_transform(rows)
    share = pca.explained_variance_ratio_.sum()
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=0)
    with _one_thread():
        near = tsne.fit_transform(rows.astype(np.float32))
    return {f"PCA ({share:.0%} of the variance)": flat, "t-SNE": near}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limits scikit-learn's OpenMP loops to one thread while the block runs.

    Waiting threads spin, which is slow beside other programs. Without OMP_NUM_THREADS,
    scikit-learn asks joblib for the number of physical cores. If the system does not
    tell, joblib prints a warning and a traceback; LOKY_MAX_CPU_COUNT, which the warning
    recommends, only helps if it is below the number of cores.
    """
    from threadpoolctl import threadpool_limits

    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with threadpool_limits(1):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def draw(
    title: str,
    points: np.ndarray,
    labels: np.ndarray | None,
    class_name: Callable[[int], str] = str,
) -> Figure:
    """Draws one projection.

    Args:
      title: name of the projection.
      points: float [n, 2].
      labels: int [n]. Each class gets a colour, a marker, and its name at its median.
        All points have one colour if this is None or there are more than `MOST_CLASSES`.
      class_name: returns the name of a label.
    """
    figure = new_figure(4.6, 4.0)
    with matplotlib.rc_context(STYLE):
        axes = figure.add_subplot(title=literal(title))
        axes.grid(False)
        # Positions mean nothing; only closeness does.
        axes.set(xticks=[], yticks=[])
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        _scatter(axes, points, labels, class_name)
    return figure


def draw_degrees(degrees: np.ndarray, name: str) -> Figure:
    """Draws a histogram of how often images are named as neighbours, int [N]."""
    figure = new_figure()
    with matplotlib.rc_context(STYLE):
        axes = figure.add_subplot(
            title=f"In-degree, {literal(name)}",
            xlabel="times named as a neighbour",
            ylabel="images",
            yscale="log",
        )
        bins = np.linspace(0, degrees.max() + 1, min(degrees.max() + 2, 41))
        axes.hist(degrees, bins=bins, color=COLORS[0])
        # Show bars of a single image. Set after the bars, since it stops autoscaling.
        axes.set_ylim(bottom=0.5)
    return figure


def _scatter(
    axes,
    plane: np.ndarray,
    labels: np.ndarray | None,
    class_name: Callable[[int], str],
) -> None:
    classes = [] if labels is None else np.unique(labels)
    names = [class_name(label) for label in classes]
    size = 13 if max(map(len, names), default=0) <= 2 else 9
    if not 1 < len(classes) <= MOST_CLASSES:
        axes.scatter(*plane.T, s=5, color=GRAY, linewidths=0)
        return
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for i, (label, name) in enumerate(zip(classes, names, strict=True)):
        members = plane[labels == label]
        color = COLORS[i % len(COLORS)]
        marker = MARKERS[i // len(COLORS)]
        axes.scatter(*members.T, s=8, color=color, marker=marker, linewidths=0)
        axes.text(
            *np.median(members, axis=0),
            name,
            color=color,
            weight="bold",
            size=size,
            ha="center",
            va="center",
            path_effects=halo,
        )
