"""Decodes every picture of a data set once and lists those that cannot be used."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import tqdm
from ml_collections import ConfigDict

from invariance_propagation import settings
from invariance_propagation.data import sources
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources.survey import check_classes, survey_folder
from invariance_propagation.data.sources.usable import Fault, check_pictures
from invariance_propagation.errors import TrainingError, UserError, plural


def print_scan(config: ConfigDict) -> list[Fault]:
    """Prints what the data set holds, and what is wrong with pictures that are unusable.

    Returns:
      An empty list.

    Raises:
      UserError: some pictures cannot be used, or the data set has no encoded pictures.
    """
    if config.data.name == "image_folder":
        return scan_folder(config)
    dataset = settings.call(
        sources.load, "data", config, size=config.augment.size, seed=config.seed
    )
    splits = [part.images for part in (dataset.train, dataset.held_out) if part]
    if not isinstance(splits[0], Pictures):
        raise UserError(
            f"--config.data.name={config.data.name!r} is held as arrays, not as encoded "
            "pictures: there is nothing to scan"
        )
    bad = [fault for pictures in splits for fault in scan(pictures)]
    count = sum(len(pictures) for pictures in splits)
    _print_faults(bad, count, splits[0].where)
    print(_all_usable(count))
    return bad


def scan_folder(config: ConfigDict) -> list[Fault]:
    """Does the same as `print_scan` for a folder, and lists what training skips.

    All pictures are decoded, whatever earlier scans found. Training does not have to
    check them again.
    """
    data = config.data
    survey = survey_folder(
        data.folder,
        classes=data.classes,
        held_out=data.held_out,
        outside_links=data.outside_links,
    )
    root, listing, unused = survey.root, survey.listing, survey.division.unused
    for line in survey.lines():
        print(line)
    check_classes(survey)
    checked = check_pictures(
        root, listing.ids, stretch_depth=data.stretch_depth, anew=True
    )
    _print_faults(checked.faults, len(listing.ids), str(root))
    num_unused = sum(unused.values())
    if listing.passed or num_unused:
        used = len(listing.ids) - num_unused
        rest = sum(listing.passed.values()) + num_unused
        print(
            f"{plural(used, 'picture')} can be used; "
            f"{plural(rest, 'file')} cannot (listed above)"
        )
    else:
        print(_all_usable(len(listing.ids)))
    return checked.faults


def scan(pictures: Pictures) -> list[Fault]:
    """Returns the pictures that cannot be read or decoded, in the order of the ids."""

    def fault(index: int) -> Fault | None:
        try:
            pictures.read(index)
        except TrainingError as error:
            return Fault(pictures.ids[index], str(error.__cause__))
        return None

    with ThreadPoolExecutor() as pool:
        faults = pool.map(fault, range(len(pictures)))
        progress = tqdm.tqdm(
            faults, total=len(pictures), unit="picture", disable=None, leave=False
        )
        return [bad for bad in progress if bad is not None]


def _all_usable(count: int) -> str:
    return (
        "the picture can be used"
        if count == 1
        else f"all {count:,} pictures can be used"
    )


def _print_faults(bad: Sequence[Fault], count: int, where: str) -> None:
    """Prints faults; raises UserError if there are any."""
    for fault in bad:
        print(fault)
    if bad:
        raise UserError(
            f"{len(bad)} of {plural(count, 'picture')} cannot be used (above): repair or "
            f"remove what is unusable in {where}"
        )
