"""Restores the memory of a run, and the method that it was trained by."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from invariance_propagation import settings
from invariance_propagation.errors import UserError
from invariance_propagation.methods import (
    Method,
    Notes,
    Problem,
    is_shipped,
    make_method,
)
from invariance_propagation.models import make_encoder
from invariance_propagation.store.facts import noted_steps_per_epoch, unpack_ids
from invariance_propagation.store.reading import find_source, read_checkpoint


class StoredMemory(NamedTuple):
    """What a run remembers of its N images.

    Attributes:
      arrays: all arrays of the memory, by names with dots.
      rows: float32 [N, d], comparable with embeddings; None if the method has none.
      neighbors: int32 [N, k], nearest neighbours of each image; None if it has none.
      sample_ids: the source's name of each row's image; None if the images have no names
        and rows are in the order of the data set.
      facts: what the run noted about itself, `step` included.
    """

    arrays: dict[str, np.ndarray]
    rows: np.ndarray | None
    neighbors: np.ndarray | None
    sample_ids: list[str] | None
    facts: dict[str, Any]

    @property
    def tree(self) -> Any:
        """The memory as a method sees it: arrays in nested dicts."""
        return unflatten_dict(self.arrays, sep=".")


def restore_memory(path: str | Path) -> StoredMemory:
    """Reads what a run remembers of its images.

    Args:
      path: a run's workdir, whose newest whole checkpoint is read; or the folder of one
        step.

    Raises:
      UserError: there is no checkpoint.
      TrainingError: there are checkpoints, but none can be read.
    """
    state, facts = read_checkpoint(find_source(path).path, ("memory",))
    arrays = flatten_dict(state.get("memory", {}), sep=".")
    names = facts.get("memory")
    if names is None:  # earlier versions did not note them
        notes = notes_of(facts)
        names = {"rows": notes.rows, "neighbors": notes.neighbors}
    packed = facts.get("sample_ids")
    return StoredMemory(
        arrays,
        arrays.get(names["rows"]),
        arrays.get(names["neighbors"]),
        packed and unpack_ids(packed, count=facts["num_examples"]),
        facts,
    )


def notes_of(facts: dict[str, Any]) -> Notes:
    """Returns the notes of the method that a run was trained by.

    They are empty for methods from outside this package, whose code must not run because
    a file names it, and for options that only an earlier version had.
    """
    method = method_of(facts)
    return Notes() if method is None else method.notes


def method_of(facts: dict[str, Any]) -> Method | None:
    """Builds the method that a run was trained by; None where `notes_of` is empty."""
    config = settings.by_new_names(facts["config"])
    if not is_shipped(config["method"]):
        return None
    problem = Problem(
        encoder=settings.call(make_encoder, "encoder", config),
        num_examples=facts["num_examples"],
        batch_size=facts["batch_size"],
        steps_per_epoch=noted_steps_per_epoch(facts),
        axis_name=None,
        categories=facts.get("categories", {}),
    )
    try:
        return make_method(config, problem)
    except UserError:
        return None
