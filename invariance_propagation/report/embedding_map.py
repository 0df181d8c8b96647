"""The embeddings in two dimensions, and how often images are named as neighbours."""

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
FEWEST = 4  # images, for a map
PERPLEXITY = 30.0


def project(rows: np.ndarray) -> dict[str, np.ndarray]:
    """By name of the projection, float [n, 2], of unit rows, n at least `FEWEST`."""
    # Imported here: scikit-learn takes a second.
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
    """Keeps scikit-learn's OpenMP loops to one thread while the block runs.

    Beside other programs, threads that wait would spin. Without OMP_NUM_THREADS
    scikit-learn lets joblib count physical cores, and joblib prints a warning and a
    traceback where the system does not tell: LOKY_MAX_CPU_COUNT, which the warning
    advises, only helps if it is lower than the number of cores.
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
    """A plot of one projection.

    Args:
      title: its name.
      points: float [n, 2].
      labels: int [n], each class in its own colour and marker, its name where most of
        it lies; None, or more of them than there are marks for: all in one colour.
      class_name: of a label.
    """
    figure = new_figure(4.6, 4.0)
    with matplotlib.rc_context(STYLE):
        axes = figure.add_subplot(title=literal(title))
        axes.grid(False)
        # Only who lies beside whom means anything.
        axes.set(xticks=[], yticks=[])
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        _scatter(axes, points, labels, class_name)
    return figure


def draw_degrees(degrees: np.ndarray, name: str) -> Figure:
    """How many images of a run are named so many times."""
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
        # A single image is to be seen. After the bars, as it ends their own scaling.
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
