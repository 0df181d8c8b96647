"""What CoKe tells the rest of the package about its clusterings."""

from functools import partial
from typing import Any

import numpy as np

from invariance_propagation.methods.base import Notes, part_of
from invariance_propagation.methods.clusters import cluster_notes
from invariance_propagation.methods.coke.options import Options


def make_notes(options: Options) -> Notes:
    """Binds what the notes depend on; scores and pictures are of the first clustering."""
    sizes = ", ".join(f"{size:,}" for size in options.num_clusters)
    return cluster_notes(
        partial(first_labels, num_clusters=options.num_clusters[0]),
        about=f"clusterings into {sizes}",
        buffers=partial(buffers, options=options),
        starts=options.average_from if options.views == "one" else None,
        warnings=partial(warn_of_one_stage, options=options),
    )


def first_labels(memory: Any, *, num_clusters: int) -> np.ndarray:
    """Returns each image's cluster in the first clustering, int [N].

    Images that have none yet count as one more cluster, number K.
    """
    labels = np.asarray(part_of(memory, "labels"))[:, 0]
    return np.where(labels < 0, num_clusters, labels)


def buffers(
    batch_size: int, num_devices: int, platform: str, *, options: Options
) -> dict[str, int]:
    """Returns the bytes of the logits of all views, of q and p, on a device."""
    del platform
    views = sum(options.groups.values())
    rows = 2 * views * batch_size // num_devices
    return {"logits": 4 * rows * sum(options.num_clusters)}


def warn_of_one_stage(epochs: int, *, options: Options) -> list[str]:
    """Says that a run with one view ends before its second stage."""
    if options.views != "one" or epochs > options.average_from:
        return []
    return [
        f"labels are averaged from epoch {options.average_from} on, and this run has "
        f"{epochs} epochs: set method.average_from to a lower one for the second stage"
    ]
