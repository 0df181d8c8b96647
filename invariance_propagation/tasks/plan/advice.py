"""Finds the largest setting that fits the memory."""

from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from invariance_propagation.models.norm import fits_devices
from invariance_propagation.phases import say
from invariance_propagation.train.run import Run

# A batch that fills ENOUGH of the memory is large enough. The search aims at CAUTION.
# Between a batch that fits and one that does not, it compares fewer than 2 * CLOSE sizes.
ENOUGH, CAUTION, CLOSE = 0.9, 0.97, 16


def largest_fit(
    size: Callable[[int], float], low: int, high: int, over: float, step: int
) -> int | None:
    """Finds the largest of low, low + step, ... below `high` whose size is at most 1.

    Sizes grow almost linearly, so following a straight line between the last two needs
    only a few trials.

    Args:
      size: grows with its argument; each call may compile a program.
      low: the smallest choice.
      high: a choice that is too large.
      over: `size(high)`, above 1.
      step: distance between choices.

    Returns:
      The choice; None if not even `low` fits.
    """
    under = size(low)
    if under > 1:
        return None
    while high - low > step:
        guess = low + (high - low) * (1 - under) / (over - under)
        steps = max(1, min((high - low - 1) // step, int((guess - low) / step)))
        trial = low + steps * step
        measured = size(trial)
        if measured <= 1:
            low, under = trial, measured
        else:
            high, over = trial, measured
    return low


def advise(
    config: ConfigDict, run: Run, over: float, share_with: Callable[[str, int], float]
) -> str:
    """Says which batch size fits, or else how many images do.

    Args:
      config: of the run.
      run: does not fit.
      over: the share of the memory that it needs.
      share_with: (name of a setting, value) -> the share that it would need then.
    """
    sizes = batch_sizes(config, run, below=run.options.batch_size)
    if sizes:
        share = trial(share_with, "train.batch_size")
        best = largest_fit(lambda i: share(sizes[i]), 0, len(sizes), over, 1)
        if best is not None:
            return f"set --config.train.batch_size to at most {sizes[best]}"
    name = "data.num_examples" if config.data.get("num_examples") else "data.num_train"
    least = max(
        run.options.batch_size,
        run.method.requires.fewest_examples,
        run.knn.num_neighbors,
    )
    if run.num_examples > least:
        share = trial(share_with, name)
        best = largest_fit(share, least, run.num_examples, over, 1)
        if best is not None:
            return f"set --config.{name} to at most {best}"
    return (
        "take a smaller network (--config.encoder.width, --config.encoder.depth) or more "
        "devices"
    )


def largest_batch(
    config: ConfigDict, run: Run, share: float, share_with: Callable[[str, int], float]
) -> int:
    """Finds about the largest batch that fits, by few trials; one batch does fit.

    Args:
      config: of the run.
      run: fits.
      share: the share of the memory that it needs.
      share_with: as for `advise`.
    """
    sizes = batch_sizes(config, run, below=run.num_examples + 1)
    best, measure = run.options.batch_size, trial(share_with, "train.batch_size")

    def allowed(size: float) -> int:
        return max((x for x in sizes if best < x <= size), default=best)

    # Memory grows almost in a line, which two points tell.
    last, over = (0, 0.0), allowed(2 * best)
    while over > best:
        found = measure(over)
        if found > 1:
            break
        last, best, share = (best, share), over, found
        if share > ENOUGH:
            return best
        slope = (share - last[1]) / (best - last[0])
        over = allowed(best + (1 - share) / slope * CAUTION)
    choices = [x for x in sizes if best <= x < over]
    choices = choices[:: max(1, len(choices) // CLOSE)]
    if len(choices) < 2:
        return best
    known = {best: share}
    number = largest_fit(
        lambda i: known.get(choices[i]) or measure(choices[i]),
        0,
        len(choices),
        found,
        1,
    )
    return choices[number or 0]


def batch_sizes(config: ConfigDict, run: Run, *, below: int) -> Sequence[int]:
    """Returns the batch sizes that the devices and the groups of BatchNorm allow."""
    group, devices = config.encoder.norm_group or 1, run.runner.num_devices
    return [
        size
        for size in range(devices, below, devices)
        if size % group == 0 and fits_devices(group, devices, batch_size=size)
    ]


def trial(share_with: Callable[[str, int], float], name: str) -> Callable[[int], float]:
    """Returns a function that measures a value of one setting, and says so."""

    def share(value: int) -> float:
        found = share_with(name, value)
        say(f"tried {name}={value}: {found:.0%} of the memory that is available")
        return found

    return share


def changed(config: ConfigDict, **settings: Any) -> ConfigDict:
    """Returns a copy of the config with other settings, by their full names."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(settings)
    return copy
