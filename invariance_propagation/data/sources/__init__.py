"""Data sets by name: arrays that live on the devices, or pictures that are streamed.

An image's index is its position in the training split: a method's
memory is addressed by it, so a source always yields the same order.
"""

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources.folder import image_folder
from invariance_propagation.data.sources.idx import fashion_mnist
from invariance_propagation.data.sources.records import (
    STOCK,
    TFDS,
    is_prepared,
    load_records,
)
from invariance_propagation.errors import UserError

ON_CHANGE = ("refuse", "match")


def load(
    *,
    name: str,
    folder: str,
    num_train: int,
    split: str = "",
    classes: bool = False,
    held_out: float = 0.0,
    stretch_depth: bool = False,
    outside_links: bool = True,
    scan: str = "decode",
    max_unreadable: float = 0.001,
    on_change: str = "refuse",
    size: int = 224,
    seed: int = 0,
) -> Dataset:
    """Loads a data set by name.

    Args:
      name: one of `LOADERS`, 'image_folder', one of `records.STOCK`, or 'tfds:NAME'
        for any other set of pictures that TFDS has.
      folder: where the files lie; '' for the usual place.
      num_train: keep a random sample of so many training images; 0 keeps all.
      split: of a TFDS set, what to train on, e.g. 'train[:10%]'; '' is the usual.
      classes: of an image folder, whether its topmost folders are classes.
      held_out: share of an image folder to keep from training, for kNN.
      stretch_depth: of an image folder or a TFDS set, whether pictures whose depth is
        not known are stretched from their darkest value to their lightest; False refuses them.
      outside_links: of an image folder, whether links that lead out of it are followed.
      scan: how the pictures of an image folder are looked at before they are used,
        'decode' or 'headers'.
      max_unreadable: share of an image folder's pictures that may be left out.
      on_change: what a run does that began with other images, 'refuse' or 'match'; it
        does not change what is loaded.
      size: height and width of the crops of streamed pictures.
      seed: of the sample.

    Raises:
      UserError: unknown name, missing or damaged files, a value out of range, or an
        option that this data set does not have.
    """
    if not name:
        raise UserError(
            f"data.name is missing: choose a data set, one of {_names()}; or begin "
            "with the config of one, e.g. --config=configs/digits.py"
        )
    if not 0 <= held_out < 1:
        raise UserError(f"data.held_out={held_out}: set it to 0 or above, below 1")
    if on_change not in ON_CHANGE:
        raise UserError(
            f"data.on_change={on_change!r}: choose one of {', '.join(ON_CHANGE)}"
        )
    of_folders, of_records = name == "image_folder", _of_records(name)
    for option, given, has in (
        ("split", split, of_records),
        ("classes", classes, of_folders),
        ("held_out", held_out, of_folders),
        ("stretch_depth", stretch_depth, of_folders or of_records),
    ):
        if given and not has:
            raise UserError(
                f"data.{option}={given!r}: {name} has no such option; leave it out"
            )
    if of_folders:
        dataset = image_folder(
            folder,
            classes=classes,
            held_out=held_out,
            size=size,
            stretch_depth=stretch_depth,
            outside_links=outside_links,
            scan=scan,
            max_unreadable=max_unreadable,
        )
    elif of_records:
        dataset = load_records(
            name, folder, split=split, size=size, stretch_depth=stretch_depth
        )
    elif name in LOADERS:
        dataset = LOADERS[name](folder)
    else:
        raise UserError(f"data.name={name!r}: choose one of {_names()}")
    count = len(dataset.train.images)
    if not 0 <= num_train <= count:
        raise UserError(
            f"data.num_train={num_train}, but {name} has {count} training images: "
            f"set it from 1 to {count}, or to 0 for all of them"
        )
    return dataset._replace(train=dataset.train.sample(num_train or count, seed=seed))


def _names() -> str:
    known = ", ".join((*LOADERS, "image_folder", *STOCK))
    return f"{known}, or tfds:NAME for another set of pictures that TFDS has"


def must_be_fetched(name: str, folder: str) -> bool:
    """Whether `load` would download a set first."""
    return _of_records(name) and not is_prepared(name, folder)


def check_stored(name: str, folder: str) -> None:
    """Raises UserError for a set that only a checkpoint names and TFDS would fetch.

    The code that makes a set may come with it, from whoever wrote the name.
    """
    if name not in STOCK and must_be_fetched(name, folder):
        raise UserError(
            f"the checkpoint names the set {name}, which is not on this machine, and to "
            f"fetch it can run code: add --config.data.name={name} if you trust it"
        )


def _of_records(name: str) -> bool:
    return name in STOCK or TFDS in name


def _digits(folder: str) -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 grey; the last 450 are held out.

    The digits are in the order of their writers, so that most of those held out come
    from writers who are not in the training split.
    """
    if folder:
        raise UserError(
            f"data.folder={folder!r}: digits ship with scikit-learn; leave it ''"
        )
    # Imported here: scikit-learn takes a second to import and others need it not.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    cut = len(images) - 450
    return Dataset(
        "digits", Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    )


LOADERS = {"digits": _digits, "fashion_mnist": fashion_mnist}
