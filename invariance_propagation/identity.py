"""What a run is of, as its checkpoints note it, and whether another run may go on."""

from pathlib import Path
from typing import Any

from invariance_propagation.checkpoint import pack_ids
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.errors import UserError
from invariance_propagation.run import Run

# 2: marks of content besides names, a random sample; runs of version 1 note none.
DIGEST_VERSION = 2


def identity_of(run: Run) -> dict[str, Any]:
    """Returns what a checkpoint must share with a run that goes on from it."""
    return {
        "dataset": run.dataset.name,
        "num_examples": run.num_examples,
        "digest": run.dataset.digest(),
        "digest_version": DIGEST_VERSION,
        "batch_size": run.options.batch_size,
    }


def sample_ids(run: Run) -> dict[str, str]:
    """Returns which image each row of the bank belongs to, where images have names."""
    ids = run.dataset.train.ids
    return {} if ids is None else {"sample_ids": pack_ids(ids)}


def crop_of(run: Run) -> dict[str, float]:
    """Returns the part of an image's shorter side that evaluation looks at."""
    images = run.dataset.train.images
    return {"share": images.share if isinstance(images, Pictures) else 1.0}


def check_same_run(
    found: dict[str, Any] | None, run: Run, folder: Path, *, sampled: bool
) -> None:
    """Raises UserError where a workdir's run has other images or another batch.

    What the data set is called does not matter: a folder may have been renamed.
    """
    if found is None:
        return
    if found["batch_size"] != run.options.batch_size:
        raise UserError(
            f"{folder} holds a run with train.batch_size={found['batch_size']}, this "
            f"config has {run.options.batch_size}, and steps would be other images: set "
            "it back, or choose another --workdir"
        )
    own = identity_of(run)
    same = found["num_examples"] == own["num_examples"]
    if same and run.dataset.has_digest(found["digest"]):
        return
    reason = ""
    if sampled and "digest_version" not in found:
        reason = (
            "; an earlier version began it, in which data.num_train took the first "
            "images and not a random sample: go on with that version, or"
        )
    raise UserError(
        f"{folder} holds a checkpoint of {found['dataset']} with "
        f"{found['num_examples']} images (digest {found['digest']}), this config "
        f"trains on {own['dataset']} with {own['num_examples']} (digest "
        f"{own['digest']}){reason or ':'} choose another --workdir"
    )
