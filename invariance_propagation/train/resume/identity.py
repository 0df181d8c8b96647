"""What a run is of, as its checkpoints note it, and whether another run may go on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from invariance_propagation.data.changes import Changes, Known, compare
from invariance_propagation.data.dataset import Split
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.errors import UserError
from invariance_propagation.store.facts import (
    pack_checksums,
    pack_ids,
    unpack_checksums,
    unpack_ids,
)
from invariance_propagation.train.run import Run

# 2: marks of content besides names, a random sample; runs of version 1 note none.
DIGEST_VERSION = 2
MATCH = "--config.data.on_change=match"


class Difference(NamedTuple):
    """How the images of a config differ from those of a checkpoint.

    Attributes:
      train: of the training images; None where they are the same.
      held_out: says it of the held-out images; '' where they are the same.
    """

    train: Changes | None
    held_out: str


def identity_of(run: Run) -> dict[str, Any]:
    """Returns what a checkpoint must share with a run that goes on from it."""
    return {
        "dataset": run.dataset.name,
        "num_examples": run.num_examples,
        "digest": run.dataset.digest(),
        "digest_version": DIGEST_VERSION,
        "batch_size": run.options.batch_size,
        "steps_per_epoch": run.steps_per_epoch,
        "held_out": _about(run.dataset.held_out),
    }


def method_of(run: Run) -> dict[str, Any]:
    """Returns what those who read a checkpoint need to know of its method."""
    notes = run.method.notes
    return {
        "memory": {"rows": notes.rows, "neighbors": notes.neighbors},
        "categories": run.dataset.train.categories(),
    }


def names_of(run: Run) -> dict[str, str]:
    """Returns which image each row of the memory belongs to, where images have names.

    Likewise of the held-out images. By names and checksums a later run tells what has
    changed.
    """
    return _names("sample", run.dataset.train) | _names(
        "held_out", run.dataset.held_out
    )


def crop_of(run: Run) -> dict[str, float]:
    """Returns the part of an image's shorter side that evaluation looks at."""
    images = run.dataset.train.images
    return {"share": images.share if isinstance(images, Pictures) else 1.0}


def steps_per_epoch_of(found: Mapping[str, Any] | None, run: Run) -> int:
    """Returns the steps of an epoch, which stay as they were when a run began.

    Another number of images would else move the learning rate and all that counts epochs.
    """
    if found is None or found["batch_size"] != run.options.batch_size:
        return run.steps_per_epoch
    at_first = found["num_examples"] // found["batch_size"]
    return found.get("steps_per_epoch", at_first)


def same_images(found: Mapping[str, Any], own: Mapping[str, Any], run: Run) -> bool:
    """Returns whether a checkpoint is of this run's training images.

    What the data set is called does not matter: a folder may have been renamed.
    """
    if found["num_examples"] != own["num_examples"]:
        return False
    same = found["digest"] == own["digest"]
    return same or run.dataset.has_digest(found["digest"])


def check_same_run(
    found: Mapping[str, Any] | None, own: Mapping[str, Any], run: Run, folder: Path
) -> Difference | None:
    """Compares the run of a workdir with the one that is to go on in it.

    Args:
      found: the facts of its checkpoint; None without one.
      own: `identity_of` this run, and its config.
      run: this run.
      folder: the workdir, for messages.

    Returns:
      How the images differ; None where they do not.

    Raises:
      UserError: another batch; or other images, and data.on_change is 'refuse' or what
        was there cannot be matched.
    """
    if found is None:
        return None
    if found["batch_size"] != run.options.batch_size:
        raise UserError(
            f"{folder} holds a run with train.batch_size={found['batch_size']}, this "
            f"config has {run.options.batch_size}, and steps would be other images: set "
            "it back, or choose another --workdir"
        )
    held_out = _compare_held_out(found, own, run.dataset.held_out)
    if same_images(found, own, run):
        if held_out and not _matches(own) and (run.has_knn or found.get("untrained")):
            raise UserError(
                f"{folder} holds a checkpoint with other held-out images, so that kNN "
                f"before and after could not be compared ({held_out}): set them back, "
                f"add {MATCH} to go on all the same, or choose another --workdir"
            )
        return Difference(None, held_out) if held_out else None
    known = _known(found, "sample")
    names = run.dataset.train.ids
    if known is None or names is None:
        changes, hindrance = None, "its images have no names to tell what has changed"
    else:
        changes = compare(known, Known(names, run.dataset.train.checksums()))
        hindrance = _hindrance(run)
    if changes is None or hindrance or not _matches(own):
        raise _other_images(found, own, folder, changes, held_out, hindrance)
    return Difference(changes, held_out)


def _other_images(
    found: Mapping[str, Any],
    own: Mapping[str, Any],
    folder: Path,
    changes: Changes | None,
    held_out: str,
    hindrance: str,
) -> UserError:
    parts = [] if changes is None else [str(changes)]
    parts += [f"the held-out images too: {held_out}"] if held_out else []
    parts += [f"{hindrance}, so the memory cannot be matched"] if hindrance else []
    advice = "" if hindrance else f"add {MATCH} to go on with those that stay, or "
    if own["config"]["data"]["num_train"] and "digest_version" not in found:
        advice = (
            "an earlier version began it, in which data.num_train took the first "
            f"images and not a random sample: go on with that version, or {advice}"
        )
    return UserError(
        f"{folder} holds a checkpoint of {found['dataset']} with "
        f"{found['num_examples']} images (digest {found['digest']}), this config "
        f"trains on {own['dataset']} with {own['num_examples']} (digest "
        f"{own['digest']}): {'; '.join(parts)}: {advice}choose another --workdir"
    )


def _matches(own: Mapping[str, Any]) -> bool:
    # A config of before the key refuses, as it did.
    return own["config"]["data"].get("on_change") == "match"


def _hindrance(run: Run) -> str:
    has_memory = bool(jax.tree.leaves(run.method.memory_spec))
    if has_memory and run.method.match is None:
        return "its method has a memory and no `match` (docs/own_method.md)"
    return ""


def _about(split: Split | None) -> dict[str, Any] | None:
    if split is None:
        return None
    return {"num_examples": len(split.images), "digest": split.digest()}


def _names(kind: str, split: Split | None) -> dict[str, str]:
    if split is None or split.ids is None:
        return {}
    checksums = split.checksums()
    known = {f"{kind}_ids": pack_ids(split.ids)}
    if checksums is not None:
        known[f"{kind}_checksums"] = pack_checksums(checksums)
    return known


def _known(found: Mapping[str, Any], kind: str) -> Known | None:
    if f"{kind}_ids" not in found:
        return None
    checksums = found.get(f"{kind}_checksums")
    return Known(
        unpack_ids(found[f"{kind}_ids"]),
        None if checksums is None else unpack_checksums(checksums),
    )


def _compare_held_out(
    found: Mapping[str, Any], own: Mapping[str, Any], split: Split | None
) -> str:
    """Says what has changed; '' for nothing, or where an earlier version noted nothing."""
    if "held_out" not in found or found["held_out"] == own["held_out"]:
        return ""
    before, now = (
        x and x["num_examples"] for x in (found["held_out"], own["held_out"])
    )
    text = f"{before or 'none'} then, {now or 'none'} now"
    known = _known(found, "held_out")
    if known is None or split is None or split.ids is None:
        return text
    return f"{text}: {compare(known, Known(split.ids, split.checksums()))}"
