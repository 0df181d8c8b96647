"""Notes what a run trains on, and decides whether another run may continue from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from invariance_propagation.data.changes import Changes, Known, compare
from invariance_propagation.data.dataset import Split
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.errors import UserError
from invariance_propagation.store.facts import (
    images_of,
    noted_steps_per_epoch,
    pack_checksums,
    pack_ids,
)
from invariance_propagation.train.run import Run
from invariance_propagation.version import versions

# Version 2 covers marks of content besides names, and data.num_train is a random sample.
# Runs of version 1 note no version.
DIGEST_VERSION = 2
MATCH = "--config.data.on_change=match"


class Difference(NamedTuple):
    """Holds how the images of a config differ from those of a checkpoint.

    Attributes:
      train: changes of the training images; None if they are the same.
      held_out: describes the changes of the held-out images; '' if there are none.
      labels: whether the training images are the same, but their labels are not.
    """

    train: Changes | None
    held_out: str
    labels: bool = False


def identity_of(run: Run) -> dict[str, Any]:
    """Returns what a checkpoint must have in common with a run that continues from it."""
    return {
        "dataset": run.dataset.name,
        "num_examples": run.num_examples,
        "digest": run.dataset.digest(),
        "digest_version": DIGEST_VERSION,
        "labels": run.dataset.train.labels_digest(),
        "batch_size": run.options.batch_size,
        "steps_per_epoch": run.steps_per_epoch,
        "held_out": _about(run.dataset.held_out),
    }


def facts_of(run: Run) -> dict[str, Any]:
    """Returns what a checkpoint notes for its readers, besides `identity_of`."""
    return {"versions": versions(), **names_of(run), **_crop_of(run), **_method_of(run)}


def _method_of(run: Run) -> dict[str, Any]:
    """Returns what readers of a checkpoint need to know about its method."""
    notes = run.method.notes
    return {
        "memory": {"rows": notes.rows, "neighbors": notes.neighbors},
        "categories": run.dataset.train.categories(),
    }


def names_of(run: Run) -> dict[str, str]:
    """Returns the name and checksum of each training and held-out image, if known.

    Row i of the memory belongs to training image i. A later run compares names and
    checksums to find out which images have changed.
    """
    return _names("sample", run.dataset.train) | _names(
        "held_out", run.dataset.held_out
    )


def _crop_of(run: Run) -> dict[str, float]:
    """Returns the share of an image's shorter side that evaluation crops."""
    images = run.dataset.train.images
    return {"share": images.share if isinstance(images, Pictures) else 1.0}


def steps_per_epoch_of(saved: Mapping[str, Any] | None, run: Run) -> int:
    """Returns the steps per epoch, which stay what they were when a run began.

    Otherwise another number of images would shift the learning rate and everything else
    that counts epochs.

    Args:
      saved: the facts of its checkpoint; None without one.
      run: the run that continues.
    """
    if saved is None or saved["batch_size"] != run.options.batch_size:
        return run.steps_per_epoch
    return noted_steps_per_epoch(saved)


def same_images(saved: Mapping[str, Any], facts: Mapping[str, Any], run: Run) -> bool:
    """Returns whether a checkpoint was trained on the same images as this run.

    The name of the data set does not matter, because a folder may have been renamed.

    Args:
      saved: the facts of the checkpoint.
      facts: `identity_of` this run.
      run: this run.
    """
    if saved["num_examples"] != facts["num_examples"]:
        return False
    same = saved["digest"] == facts["digest"]
    return same or run.dataset.has_digest(saved["digest"])


def check_same_run(
    saved: Mapping[str, Any] | None, facts: Mapping[str, Any], run: Run, folder: Path
) -> Difference | None:
    """Compares the run in a workdir with the run that is to continue there.

    Args:
      saved: the facts of its checkpoint; None without one.
      facts: `identity_of` this run, and its config.
      run: this run.
      folder: the workdir, for messages.

    Returns:
      How the images differ; None if they do not.

    Raises:
      UserError: another batch size; or other images, and either data.on_change is
        'refuse' or the memory cannot be matched.
    """
    if saved is None:
        return None
    if saved["batch_size"] != run.options.batch_size:
        raise UserError(
            f"{folder} holds a run with train.batch_size={saved['batch_size']}, this "
            f"config has {run.options.batch_size}, so step numbers would refer to "
            "different images: set it back, or choose another --workdir"
        )
    held_out = _compare_held_out(saved, facts, run.dataset.held_out)
    if same_images(saved, facts, run):
        labels = _other_labels(saved, facts)
        scored = run.has_knn or saved.get("untrained")
        if not _matches(facts) and (labels or (held_out and scored)):
            what = "labels" if labels else f"held-out images ({held_out})"
            raise UserError(
                f"{folder} holds a checkpoint with other {what}, so kNN before and "
                f"after could not be compared: set them back, add {MATCH} to continue "
                "all the same, or choose another --workdir"
            )
        return Difference(None, held_out, labels) if held_out or labels else None
    known = images_of(saved, "sample")
    names = run.dataset.train.ids
    if known is None or names is None:
        changes, hindrance = None, "its images have no names to show what has changed"
    else:
        changes = compare(known, Known(names, run.dataset.train.checksums()))
        hindrance = _hindrance(run)
    if changes is None or hindrance or not _matches(facts):
        raise _other_images(saved, facts, folder, changes, held_out, hindrance)
    return Difference(changes, held_out)


def _other_images(
    saved: Mapping[str, Any],
    facts: Mapping[str, Any],
    folder: Path,
    changes: Changes | None,
    held_out: str,
    hindrance: str,
) -> UserError:
    parts = [] if changes is None else [str(changes)]
    parts += [f"the held-out images too: {held_out}"] if held_out else []
    parts += [f"{hindrance}, so the memory cannot be matched"] if hindrance else []
    advice = "" if hindrance else f"add {MATCH} to continue with those that stay, or "
    if facts["config"]["data"]["num_train"] and "digest_version" not in saved:
        advice = (
            "an earlier version began it, in which data.num_train took the first "
            f"images and not a random sample: continue with that version, or {advice}"
        )
    return UserError(
        f"{folder} holds a checkpoint of {saved['dataset']} with "
        f"{saved['num_examples']} images (digest {saved['digest']}), this config "
        f"trains on {facts['dataset']} with {facts['num_examples']} (digest "
        f"{facts['digest']}): {'; '.join(parts)}: {advice}choose another --workdir"
    )


def _matches(facts: Mapping[str, Any]) -> bool:
    # Configs from before this key existed refused.
    return facts["config"]["data"].get("on_change") == "match"


def _hindrance(run: Run) -> str:
    has_memory = bool(jax.tree.leaves(run.method.memory_spec))
    if has_memory and run.method.match is None:
        return "its method has a memory and no `match` (docs/own_method.md)"
    return ""


def _about(split: Split | None) -> dict[str, Any] | None:
    if split is None:
        return None
    return {
        "num_examples": len(split.images),
        "digest": split.digest(),
        "labels": split.labels_digest(),
    }


def _other_labels(saved: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    # A run may go on without labels, and earlier versions noted none.
    before, now = saved.get("labels"), facts["labels"]
    return before is not None and now is not None and before != now


def _names(kind: str, split: Split | None) -> dict[str, str]:
    if split is None or split.ids is None:
        return {}
    checksums = split.checksums()
    known = {f"{kind}_ids": pack_ids(split.ids)}
    if checksums is not None:
        known[f"{kind}_checksums"] = pack_checksums(checksums)
    return known


def _compare_held_out(
    saved: Mapping[str, Any], facts: Mapping[str, Any], split: Split | None
) -> str:
    """Says what has changed; '' for nothing, or if an earlier version noted nothing."""
    if "held_out" not in saved:
        return ""
    both = saved["held_out"], facts["held_out"]
    if None not in both and both[0]["digest"] == both[1]["digest"]:
        other = _other_labels(*both)
        return "the same images with other labels" if other else ""
    if both == (None, None):
        return ""
    before, now = (x and x["num_examples"] for x in both)
    text = f"{before or 'none'} then, {now or 'none'} now"
    known = images_of(saved, "held_out")
    if known is None or split is None or split.ids is None:
        return text
    return f"{text}: {compare(known, Known(split.ids, split.checksums()))}"
