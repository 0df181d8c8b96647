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
# What to type if there is nothing to compare with.
INSTEAD = (
    "set --config.compare_with to a folder of pictures to compare with, or "
    "--config.num_neighbors=0"
)


class Gallery(NamedTuple):
    """Describes the images that new pictures are compared with.

    Attributes:
      title: what the images are, in words.
      numbering: what the number of a neighbour means, in words.
      count: number of images.
      images: encoded pictures or an array; None if only their features are left.
      ids: names of the images; None if they have none.
      facts: JSON of everything that the features depend on.
      path: file that keeps the features.
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
    """Finds the training images of a run, or the features that were kept.

    Args:
      run: the facts of the run's checkpoint.
      crop: how images are cut.
      facts: facts about the network and the view.
      folder: where features are kept.

    Raises:
      UserError: there are neither images nor features.
    """
    path, section = folder / OF_TRAINING, run["config"]["data"]
    title = f"training images of {run['dataset']}"
    numbering = f"rows of the training split of {run['dataset']}, from 0"
    wanted = dict(facts) | {"data": run["digest"]}
    try:
        if sources.must_be_fetched(section["name"], section.get("folder", "")):
            raise UserError(f"{section['name']} is not on this machine")
        bound = {"size": crop.size, "seed": run["config"]["seed"]}
        dataset = settings.call(sources.load, "data", {"data": section}, **bound)
        images, ids = dataset.train.images, dataset.train.ids
        content = content_digest(images, crop)
        wanted |= {"data": dataset.digest(), "content": content}
    except (UserError, OSError) as error:
        # The advice after the last colon of the message is for training.
        reason = str(error).rsplit(": ", 1)[0]
        if not differs(_facts_or_none(path), wanted):
            gone = printable(f"the {title} are no longer there ({reason})")
            print(f"{gone}: using their kept features")
            count, packed = run["num_examples"], run.get("sample_ids")
            ids = packed and unpack_ids(packed, count=count)
            return Gallery(title, numbering, count, None, ids, wanted, path)
        raise UserError(
            f"the {title} are no longer there ({reason}): {INSTEAD}"
        ) from error
    if wanted["data"] != run["digest"]:
        print(
            f"the {printable(title)} have changed since the checkpoint (digest "
            f"{wanted['data']}, not {run['digest']}): neighbours are rows of the images "
            "that are there now"
        )
    return Gallery(title, numbering, len(images), images, ids, wanted, path)


def pictures_of(
    folder: str,
    crop: Crop,
    facts: Mapping[str, Any],
    keep_in: Path,
    *,
    stretch_depth: bool = False,
) -> Gallery:
    """Finds the pictures of a folder.

    Args:
      folder: the folder.
      crop: how images are cut.
      facts: facts about the network and the view.
      keep_in: folder where features are kept.
      stretch_depth: as for `data.load.decoding.decode`.

    Raises:
      UserError: there are no pictures.
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
        wanted = dict(facts) | {"content": content_digest(images, crop)}
    except OSError as error:
        raise UserError(f"compare_with={folder} cannot be read ({error})") from error
    return Gallery(
        f"pictures of {folder}",
        f"places among all pictures of {folder}, sorted by path, from 0",
        len(ids),
        images,
        ids,
        wanted,
        keep_in / f"folder-{place[:16]}.npz",
    )


def _facts_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_facts(path)
    except Damaged:
        return None


def differs(kept: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    """Says in words how kept features differ from the wanted ones; '' if they do not."""
    if kept is None:
        return "nothing"
    for name, value in json.loads(json.dumps(wanted)).items():
        if kept.get(name) != value:
            return f"another {name}"
    return ""
