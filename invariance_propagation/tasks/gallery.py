"""The images that new pictures are compared with, and what their features depend on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invariance_propagation import settings
from invariance_propagation.data import sources
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.passes import Crop, content_digest
from invariance_propagation.data.sources.folder import Files
from invariance_propagation.data.sources.listing import list_pictures
from invariance_propagation.errors import UserError, printable
from invariance_propagation.evaluation.kept import Damaged, read_facts
from invariance_propagation.files.paths import local
from invariance_propagation.store.facts import unpack_ids

OF_TRAINING = "training.npz"
# What to set where there is nothing to compare with.
INSTEAD = (
    "set --config.compare_with to a folder of pictures to compare with, or "
    "--config.num_neighbors=0"
)


class Gallery(NamedTuple):
    """The images that new pictures are compared with.

    Attributes:
      title: what they are, for people.
      numbering: what the number of a neighbour means, for people.
      count: how many there are.
      images: encoded or as an array; None where only their kept features are left.
      ids: their names, None where they have none.
      facts: on which their features depend, as JSON.
      path: of the file that keeps the features.
    """

    title: str
    numbering: str
    count: int
    images: Pictures | np.ndarray | None
    ids: Sequence[str] | None
    facts: dict[str, Any]
    path: Path


def training_images(
    run: Mapping[str, Any], crop: Crop, facts: Mapping[str, Any], folder: Path
) -> Gallery:
    """The training images of a run, or what is kept of them.

    Args:
      run: the facts of its checkpoint.
      crop: how images are cut.
      facts: about the network and the view.
      folder: where features are kept.

    Raises:
      UserError: neither the images nor their features are there.
    """
    path, section = folder / OF_TRAINING, run["config"]["data"]
    title = f"training images of {run['dataset']}"
    numbering = f"rows of the training split of {run['dataset']}, from 0"
    own = dict(facts) | {"data": run["digest"]}
    try:
        if sources.must_be_fetched(section["name"], section.get("folder", "")):
            raise UserError(f"{section['name']} is not on this machine")
        bound = {"size": crop.size, "seed": run["config"]["seed"]}
        dataset = settings.call(sources.load, "data", {"data": section}, **bound)
        images, ids = dataset.train.images, dataset.train.ids
        own |= {"data": dataset.digest(), "content": content_digest(images, crop)}
    except (UserError, OSError) as error:
        # What the message advises, after its last colon, is for training.
        reason = str(error).rsplit(": ", 1)[0]
        if not differs(_facts_or_none(path), own):
            gone = printable(f"the {title} are gone ({reason})")
            print(f"{gone}: what is kept of them is taken")
            count, packed = run["num_examples"], run.get("sample_ids")
            ids = packed and unpack_ids(packed, count=count)
            return Gallery(title, numbering, count, None, ids, own, path)
        raise UserError(f"the {title} are gone ({reason}): {INSTEAD}") from error
    if own["data"] != run["digest"]:
        print(
            f"the {printable(title)} are not those of the checkpoint any more (digest "
            f"{own['data']}, not {run['digest']}): neighbours are rows of what is there"
        )
    return Gallery(title, numbering, len(images), images, ids, own, path)


def pictures_of(
    folder: str,
    crop: Crop,
    facts: Mapping[str, Any],
    keep_in: Path,
    *,
    stretch_depth: bool = False,
) -> Gallery:
    """The pictures of a folder; arguments as for `training_images` and `decode`.

    Raises:
      UserError: there are none.
    """
    root = local(folder, key="compare_with")
    ids = list_pictures(root, key="compare_with").ids
    images = Pictures(
        ids,
        Files(root, ids),
        size=crop.size,
        where=str(root),
        stretch_depth=stretch_depth,
    )
    place = hashlib.sha256(str(root).encode(errors="surrogateescape")).hexdigest()
    try:
        own = dict(facts) | {"content": content_digest(images, crop)}
    except OSError as error:
        raise UserError(f"compare_with={folder} cannot be read ({error})") from error
    return Gallery(
        f"pictures of {folder}",
        f"places among all pictures of {folder}, sorted by path, from 0",
        len(ids),
        images,
        ids,
        own,
        keep_in / f"folder-{place[:16]}.npz",
    )


def _facts_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_facts(path)
    except Damaged:
        return None


def differs(kept: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    """What kept features are of that is not wanted, for people; '' if nothing."""
    if kept is None:
        return "nothing"
    for name, value in json.loads(json.dumps(wanted)).items():
        if kept.get(name) != value:
            return f"another {name}"
    return ""
