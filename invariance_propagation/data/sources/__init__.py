"""Loads data sets by name: arrays kept on the devices, or pictures that are streamed.

A method's memory is addressed by an image's position in the training split, so a source
must always yield the images in the same order.

To add a data set, write a module with a function `(folder, *, ...) -> Dataset` and add
one line to `LOADERS`. The function takes those keyword options of `load` that apply to it;
`load` refuses the others. A module is imported when its set is asked for.
"""

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources.described import described
from invariance_propagation.data.sources.tfds.records import TFDS, TfdsSet
from invariance_propagation.data.sources.usable import check_largest_share
from invariance_propagation.errors import UserError

__all__ = [
    "LOADERS",
    "Dataset",
    "Split",
    "check_stored",
    "described",
    "find_loader",
    "load",
    "must_be_fetched",
]

# Name -> a module of this folder and the function in it, or the loader itself.
LOADERS: dict[str, str | Callable[..., Dataset]] = {
    "digits": ".digits:digits",
    "fashion_mnist": ".idx:fashion_mnist",
    "letters": ".idx:letters",
    "image_folder": ".folder:image_folder",
    "imagenet": TfdsSet("imagenet2012"),
    "imagenet_1pct": TfdsSet("imagenet2012_subset/1pct"),
    "imagenet_10pct": TfdsSet("imagenet2012_subset/10pct"),
    "cifar10": TfdsSet("cifar10"),
    "cifar100": TfdsSet("cifar100"),
    "svhn": TfdsSet("svhn_cropped"),
    "stl10": TfdsSet("stl10", train="unlabelled"),
}
ON_CHANGE = ("refuse", "match")
# These options decide which images there are, so a loader without them refuses them. The
# other options say how files are read; a loader that reads no files ignores them.
REFUSED = ("split", "classes", "held_out", "stretch_depth")


def load(
    *,
    name: str,
    folder: str,
    num_train: int,
    num_examples: int = 0,
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
      name: a key of `LOADERS`, or 'tfds:NAME' for any other set of pictures in TFDS.
      folder: the folder that holds the files; '' for the usual place.
      num_train: keeps a random sample of this many training images; 0 keeps all.
      num_examples: of a set that is not here, for a plan; see `described`. Here it must
        be 0.
      split: of a TFDS set, what to train on, e.g. 'train[:10%]'; '' is the usual split.
      classes: of an image folder, whether its topmost folders are classes.
      held_out: share of an image folder to keep from training, for kNN.
      stretch_depth: of an image folder or a TFDS set, whether to stretch pictures of
        unknown depth from their darkest value to their lightest; False refuses them.
      outside_links: of an image folder, whether to follow links that lead out of it.
      scan: how the pictures of an image folder are checked before they are used,
        'decode' or 'headers'.
      max_unreadable: share of an image folder's pictures that may be left out.
      on_change: what a run does whose workdir holds a checkpoint of other images,
        'refuse' or 'match'. It does not change what is loaded.
      size: height and width of the crops of streamed pictures, in pixels.
      seed: decides which images the sample of `num_train` holds.

    Raises:
      UserError: an unknown name, missing or damaged files, a value out of range, or an
        option that this data set does not have.
    """
    loader = find_loader(name)
    if num_examples:
        raise UserError(
            f"--config.data.num_examples={num_examples} is for --config.task=plan alone: "
            "data.num_train takes a part of a data set"
        )
    if on_change not in ON_CHANGE:
        raise UserError(
            f"--config.data.on_change={on_change!r}: choose one of "
            f"{', '.join(ON_CHANGE)}"
        )
    if max_unreadable is not None:  # evaluation may leave it to the set
        check_largest_share(max_unreadable)
    options = {
        "split": split,
        "classes": classes,
        "held_out": held_out,
        "stretch_depth": stretch_depth,
        "outside_links": outside_links,
        "scan": scan,
        "max_unreadable": max_unreadable,
        "size": size,
    }
    dataset = loader(folder, **_options_for(loader, name, options))
    count = len(dataset.train.images)
    if not 0 <= num_train <= count:
        raise UserError(
            f"--config.data.num_train={num_train}, but {name} has {count} training "
            f"images: set it from 1 to {count}, or to 0 for all of them"
        )
    return dataset._replace(train=dataset.train.sample(num_train or count, seed=seed))


def must_be_fetched(name: str, folder: str) -> bool:
    """Returns whether `load` would download this set first."""
    loader = _tfds_set(name) if name.startswith(TFDS) else LOADERS.get(name)
    return isinstance(loader, TfdsSet) and not loader.is_prepared(folder)


def check_stored(name: str, folder: str) -> None:
    """Refuses to fetch a set that only a checkpoint names.

    The code that makes a set can come with it, from whoever wrote the name. The sets of
    `LOADERS` are known and may be fetched.

    Raises:
      UserError: TFDS would have to fetch the set.
    """
    if name not in LOADERS and must_be_fetched(name, folder):
        raise UserError(
            f"the checkpoint names the set {name}, which is not on this machine, and "
            f"fetching it can run code: add --config.data.name={name} if you trust it"
        )


def find_loader(name: str) -> Callable[..., Dataset]:
    """Finds the function that loads a data set.

    Args:
      name: as for `load`.

    Returns:
      `(folder, **options) -> Dataset`, with those options of `load` that apply.

    Raises:
      UserError: there is no such data set.
    """
    if name.startswith(TFDS):
        return _tfds_set(name)
    known = f"{', '.join(LOADERS)}, or tfds:NAME for another set of pictures in TFDS"
    if not name:
        raise UserError(
            f"--config.data.name is missing: choose a data set, one of {known}; or begin "
            "with the config of one, e.g. --config=configs/digits.py"
        )
    if name not in LOADERS:
        raise UserError(f"--config.data.name={name!r}: choose one of {known}")
    loader = LOADERS[name]
    if isinstance(loader, str):
        return pkgutil.resolve_name(f"{__name__}{loader}")
    return loader


def _tfds_set(name: str) -> TfdsSet:
    return TfdsSet(name.removeprefix(TFDS))


def _options_for(
    loader: Callable[..., Dataset], name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Picks the options that a loader takes, and refuses those it must not ignore."""
    parameters = inspect.signature(loader).parameters
    if any(x.kind is x.VAR_KEYWORD for x in parameters.values()):
        return options
    for option in REFUSED:
        if options[option] and option not in parameters:
            raise UserError(
                f"--config.data.{option}={options[option]!r}: {name} has no such "
                "option; leave it out"
            )
    return {option: x for option, x in options.items() if option in parameters}
