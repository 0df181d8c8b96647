"""Finds the checkpoint that a path names, and reads fields of its state.

Needs neither the data set nor the devices of the run. Writes and moves nothing, so the
run may still be training.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import psutil
from flax.traverse_util import flatten_dict, unflatten_dict

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import local, reason
from invariance_propagation.store.checkpoint import FOLDER, steps_in
from invariance_propagation.store.damage import check_machine, check_noted
from invariance_propagation.store.facts import (
    checksum,
    path_of,
    read_facts,
    read_item,
)
from invariance_propagation.store.rows import folder_of, read_rows
from invariance_propagation.store.weights import SUFFIXES, check_no_pickle, is_weights

KEY = "--config.checkpoint"


class Source(NamedTuple):
    """Says what a path leads to: a run, or a file of weights.

    Attributes:
      name: the path as it was typed, for messages.
      path: the same, absolute.
      workdir: of the run; None for a file of weights.
    """

    name: str
    path: Path
    workdir: Path | None


def find_source(path: str | Path) -> Source:
    """Tells a run from a file of weights; whoever reads it says if it is not there.

    Args:
      path: a run's workdir, the folder of one step, or a file of weights.

    Raises:
      UserError: it is not a path of this machine.
    """
    found = local(path, key=KEY)
    if is_weights(found) and not found.is_dir():
        return Source(str(path), found, workdir=None)
    in_a_run = found.parent.name == FOLDER
    return Source(str(path), found, found.parents[1] if in_a_run else found)


def read_checkpoint(
    path: Path, fields: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads fields of a state.

    Args:
      path: of a run, as `find_source` returns it. Of a workdir, the newest whole
        checkpoint is read.
      fields: of `TrainState`.

    Returns:
      The fields as nested dicts of NumPy arrays, and the facts of the run.

    Raises:
      UserError: there is no checkpoint.
      TrainingError: there are checkpoints, but none can be read.
    """
    reasons = []
    for folder in _step_folders(path):
        try:
            facts = read_facts(folder)
            state = _read_fields(folder, fields, facts)
        except Exception as error:
            check_machine(error, folder)
            reasons.append(f"{folder} cannot be read ({reason(error)})")
            continue
        for skipped in reasons:
            logging.warning("%s: taking step %d instead", skipped, facts["step"])
        check_noted(facts, folder)
        return state, facts
    raise TrainingError("; ".join(reasons) + ": choose another checkpoint")


def _step_folders(path: Path) -> list[Path]:
    """Lists the folders of the steps, newest first; at least one."""
    if (path / "state").is_dir():
        return [path]
    check_no_pickle(path)
    steps = steps_in(path)
    if not steps:
        what = "holds no checkpoint" if path.is_dir() else "is not a folder"
        raise UserError(
            f"{path} {what}: name a run's workdir, the folder of one step in its "
            f"{FOLDER}, or a file of weights ({' or '.join(SUFFIXES)})"
        )
    return [path / FOLDER / str(step) for step in steps]


def _read_fields(
    folder: Path, fields: tuple[str, ...], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads arrays; raises ValueError if one has changed since it was written."""
    noted = {path_of(name): fact for name, fact in facts["arrays"].items()}
    wanted = {path: fact for path, fact in noted.items() if path[0] in fields}
    dtypes = {path: np.dtype(fact["dtype"]) for path, fact in wanted.items()}
    if any(dtype.hasobject for dtype in dtypes.values()):
        raise ValueError("it has Python objects among its arrays")
    sizes = [
        dtypes[path].itemsize * math.prod(x["shape"]) for path, x in wanted.items()
    ]
    # Otherwise the process would grow until the system kills it.
    total = psutil.virtual_memory().total
    if sum(sizes) > total:
        raise MemoryError(
            f"by its own facts its arrays take {sum(sizes) / 1e9:,.0f} GB, and this "
            f"machine has {total / 1e9:,.0f} GB of memory"
        )
    filed = {path: fact for path, fact in wanted.items() if "rows" in fact}
    target = {
        path: np.empty(x["shape"], dtypes[path])
        for path, x in wanted.items()
        if path not in filed
    }
    found = _read_state(folder / "state", target)
    # For a missing array, Orbax returns whatever was in the target's memory.
    for path, x in found.items():
        if checksum(x) != wanted[path]["crc32"]:
            raise ValueError(f"{'.'.join(path)} has changed since it was written")
    for path, fact in filed.items():
        found[path] = read_rows(folder_of(folder.parent, facts["step"]), fact)
    return unflatten_dict(found)


def _read_state(
    folder: Path, target: dict[tuple[str, ...], np.ndarray]
) -> dict[tuple[str, ...], np.ndarray]:
    """Reads those arrays of a state that the target has, by the keys of their names."""
    if not target:  # a method without memory
        return {}
    state = read_item(
        ocp.PyTreeCheckpointHandler(),
        folder,
        item=_with_lists(unflatten_dict(target)),
        partial_restore=True,
    )
    return flatten_dict(_without_lists(state))


def _with_lists(tree: Any) -> Any:
    """Turns each dict with the keys '0', '1', ... into a list, as Orbax has sequences."""
    if not isinstance(tree, dict):
        return tree
    found = {name: _with_lists(x) for name, x in tree.items()}
    places = [str(i) for i in range(len(found))]
    return [found[i] for i in places] if found.keys() == set(places) else found


def _without_lists(tree: Any) -> Any:
    """Undoes `_with_lists`, so that each array has a name made of keys."""
    if isinstance(tree, list | tuple):
        tree = {str(i): x for i, x in enumerate(tree)}
    if not isinstance(tree, dict):
        return tree
    return {name: _without_lists(x) for name, x in tree.items()}
