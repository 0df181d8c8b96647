"""Decodes every picture of a data set once, and lists what cannot be used."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import tqdm
from ml_collections import ConfigDict

from invariance_propagation import settings
from invariance_propagation.data import sources
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.errors import TrainingError, UserError


class Bad(NamedTuple):
    """A picture that cannot be used: its id, and why."""

    sample_id: str
    reason: str


def print_scan(config: ConfigDict) -> list[Bad]:
    """Prints the id and the fault of each picture that cannot be used.

    Raises:
      UserError: there are such pictures; or the data set is not one of encoded pictures.
    """
    dataset = settings.call(sources.load, "data", config, size=config.augment.size)
    splits = [part.images for part in (dataset.train, dataset.held_out) if part]
    if not isinstance(splits[0], Pictures):
        raise UserError(
            f"data.name={config.data.name!r} is held as arrays, not as encoded "
            "pictures: there is nothing to scan"
        )
    bad = [found for pictures in splits for found in scan(pictures)]
    for found in bad:
        print(f"{found.sample_id}: {found.reason}")
    count = sum(len(pictures) for pictures in splits)
    if bad:
        raise UserError(
            f"{len(bad)} of {count} pictures cannot be used (above): mend or remove "
            f"them from {splits[0].where}"
        )
    print(f"all {count} pictures can be used")
    return bad


def scan(pictures: Pictures) -> list[Bad]:
    """What cannot be read or decoded, in the order of the ids."""

    def fault(index: int) -> Bad | None:
        try:
            pictures.read(index)
        except TrainingError as error:
            return Bad(pictures.ids[index], str(error.__cause__))
        return None

    with ThreadPoolExecutor() as pool:
        found = pool.map(fault, range(len(pictures)))
        progress = tqdm.tqdm(
            found, total=len(pictures), unit="picture", disable=None, leave=False
        )
        return [bad for bad in progress if bad is not None]
