"""The facts of a checkpoint: JSON beside its arrays, and checksums that prove both.

Orbax returns a flipped bit without noticing; the CRC-32 of each array and the digest of
the facts tell.
"""

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
import orbax.checkpoint as ocp

from invariance_propagation.data.changes import Known
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import plain
from invariance_propagation.store.damage import check_files


class Facts(TypedDict, total=False):
    """Lists all that a checkpoint notes; earlier versions lack what is marked.

    store/damage.py checks those that no reader can do without.
    """

    step: int  # steps done
    arrays: dict[str, dict[str, Any]]  # see `describe_arrays` and `describe_rows`
    config: dict[str, Any]  # of the run, as JSON
    versions: dict[str, str]  # of Python and the libraries

    # What a run that continues must have in common.
    dataset: str  # its name
    num_examples: int  # training images
    digest: str  # of the training images
    digest_version: int  # how `digest` is made; 1 where it is missing
    batch_size: int
    steps_per_epoch: int  # see `noted_steps_per_epoch`; may be missing
    labels: str | None  # digest of the training images' labels; may be missing
    held_out: dict[str, Any] | None  # num_examples, digest, labels; may be missing

    # Which images the rows of the memory belong to; missing for images without names.
    sample_ids: str  # see `pack_ids`
    sample_checksums: str  # see `pack_checksums`
    held_out_ids: str
    held_out_checksums: str

    # What readers need to know; may be missing.
    share: float  # of an image's shorter side, that evaluation crops
    memory: dict[str, str]  # names of the parts that have a row for each image
    categories: dict[str, int]  # of each column of the data set

    # What a run continues with.
    untrained: dict[str, float]  # scores before the first step
    window: dict[str, Any]  # sums since the last row of metrics
    started_from: dict[str, Any]  # the weights that it began with, if any
    data_changes: list[Any]  # what on_change=match has changed


MAX_IDS_BYTES = 2**30  # a thousand for each of a million images


def read_facts(folder: Path) -> Facts:
    """Reads the facts of one checkpoint; reads and touches nothing else.

    Args:
      folder: of the checkpoint. If its name is a number, that must be the step.

    Raises:
      ValueError: the facts have changed since they were written, or are of another step;
        or the checkpoint contains a pipe, socket or device.
      Exception: they cannot be read.
    """
    check_files(folder)
    # Not by Orbax's manager, which removes what another process is still writing.
    stored = read_item(ocp.JsonCheckpointHandler(), folder / "facts")
    if "arrays" in stored:  # earlier versions wrote no digest
        facts = stored
    else:
        facts = stored.get("facts")
        if stored.get("digest") != digest_of_facts(facts):
            raise ValueError("its facts have changed since they were written")
    if folder.name.isdigit() and facts["step"] != int(folder.name):
        raise ValueError(f"it is the checkpoint of step {facts['step']}, renamed")
    return facts


def digest_of_facts(facts: Any) -> str:
    """Returns the SHA-256 of JSON; the order of its keys does not matter."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_item(handler: ocp.CheckpointHandler, folder: Path, **options: Any) -> Any:
    """Reads one item of a checkpoint; reads and touches nothing else."""
    with (
        plain(folder) as place,
        ocp.Checkpointer(handler, multiprocessing_options=single_process()) as reader,
    ):
        return reader.restore(place, **options)


def single_process() -> ocp.options.MultiprocessingOptions:
    """Tells Orbax to read and write without waiting for other processes."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}
    )


def leaves_of(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by the names that facts use for them.

    Example of a name: ".params['backbone']['stem_conv']['kernel']".
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def map_named(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    """Maps fn(name, leaf) over a tree, with the names of `leaves_of`; None is a leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fn(jax.tree_util.keystr(path), leaf),
        tree,
        is_leaf=lambda x: x is None,
    )


def path_of(name: str) -> tuple[str, ...]:
    """Splits a name of `leaves_of` into its keys."""
    return tuple(re.findall(r"\w+", name))


def describe_arrays(state: Any) -> dict[str, dict[str, Any]]:
    """Returns the shape, dtype and CRC-32 of each array, by its name in `leaves_of`."""
    return {
        name: {"shape": list(x.shape), "dtype": str(x.dtype), "crc32": checksum(x)}
        for name, x in leaves_of(state).items()
    }


def checksum(x: np.ndarray) -> int:
    """Returns the CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8))


def check_shapes(arrays: dict[str, Any], target: Any, step: int) -> None:
    """Raises UserError if a checkpoint has arrays of other shapes than `target`."""
    wanted = {name: list(x.shape) for name, x in leaves_of(target).items()}
    stored = {name: fact["shape"] for name, fact in arrays.items()}
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            raise UserError(
                f"the checkpoint of step {step} has {name} of shape "
                f"{stored.get(name)}, but this config makes it {wanted.get(name)}: run "
                "with the config it was made with, or choose another --workdir"
            )


def check_contents(arrays: dict[str, Any], state: Any) -> None:
    """Raises ValueError if an array differs from what was written."""
    for name, x in leaves_of(state).items():
        if checksum(x) != arrays[name]["crc32"]:
            raise ValueError(
                f"the contents of {name} have changed since it was written"
            )


def noted_steps_per_epoch(facts: Mapping[str, Any]) -> int:
    """Returns the steps per epoch that a run began with.

    Earlier versions did not note them: there it is N // B.
    """
    at_first = facts["num_examples"] // facts["batch_size"]
    return facts.get("steps_per_epoch", at_first)


def pack_ids(ids: Sequence[str]) -> str:
    """Packs ids into text; a million ids of TFDS take 3 MB instead of 60 MB."""
    return base64.b64encode(zlib.compress(os.fsencode("\0".join(ids)))).decode()


def unpack_ids(packed: str, *, count: int | None = None) -> list[str]:
    """Unpacks ids.

    Args:
      packed: as from `pack_ids`.
      count: how many ids there must be; None if that is not known.

    Raises:
      TrainingError: the number of ids differs, or they take more than `MAX_IDS_BYTES`.
    """
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(base64.b64decode(packed), MAX_IDS_BYTES)
        if not unpacking.eof:
            raise ValueError(f"cut off, or more than {MAX_IDS_BYTES:,} bytes")
        # Count before splitting, which takes far more memory.
        if count is not None and text.count(b"\0") + 1 != count:
            raise ValueError(f"{text.count(0) + 1:,} for {count:,} images")
    except (ValueError, zlib.error) as error:
        raise TrainingError(
            f"the checkpoint's ids of its images are damaged ({error}): choose another"
        ) from error
    return os.fsdecode(text).split("\0")


def images_of(facts: Mapping[str, Any], kind: str) -> Known | None:
    """Returns the names and checksums of a checkpoint's images, if it notes them.

    Args:
      facts: of the checkpoint.
      kind: 'sample' for its training images, 'held_out' for the others.

    Raises:
      TrainingError: the names are damaged.
    """
    if f"{kind}_ids" not in facts:
        return None
    checksums = facts.get(f"{kind}_checksums")
    return Known(
        unpack_ids(facts[f"{kind}_ids"]),
        None if checksums is None else unpack_checksums(checksums),
    )


def pack_checksums(checksums: np.ndarray) -> str:
    """Packs uint32 [n] into text: 5.3 MB for a million, as random bits do not compress."""
    return base64.b64encode(checksums.astype("<u4").tobytes()).decode()


def unpack_checksums(packed: str) -> np.ndarray:
    """Unpacks the checksums uint32 [n] that `pack_checksums` packed."""
    return np.frombuffer(base64.b64decode(packed), "<u4")
