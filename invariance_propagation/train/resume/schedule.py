"""Checks the learning rate of a run that continues with another number of epochs.

A cosine depends on its end. With more epochs it would have been higher all along: the
learning rate would jump, and fall again only some epochs later.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from invariance_propagation.errors import UserError
from invariance_propagation.optimizer import make_schedule

ENDS = ("restart_epochs", "restart_rates")
NOT_OF_THE_SCHEDULE = ("name", "trust", "momentum", "weight_decay", "groups")


def check_horizon(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    step: int,
    steps_per_epoch: int,
    folder: Path,
) -> str | None:
    """Compares the epochs and restarts of a run with those that it is to continue with.

    Other keys of the schedule may change: both schedules take them from `now`.

    Args:
      before: the config of the newest checkpoint.
      now: the config that the run is to continue with.
      step: the number of steps taken, at least 1.
      steps_per_epoch: N // B, which a run cannot change.
      folder: its workdir, for the message.

    Returns:
      A line that says what has changed; None if nothing has.

    Raises:
      UserError: by `now`, a step that was taken would have had another learning rate.
    """
    old = {name: before["optimizer"].get(name, ()) for name in ENDS}
    new = {name: now["optimizer"].get(name, ()) for name in ENDS}
    epochs, more = before["train"]["epochs"], now["train"]["epochs"]
    if epochs == more and all(list(old[name]) == list(new[name]) for name in ENDS):
        return None
    rates = {"steps_per_epoch": steps_per_epoch}
    rates |= {
        name: value
        for name, value in now["optimizer"].items()
        if name not in NOT_OF_THE_SCHEDULE
    }
    was = make_schedule(**rates | old, epochs=epochs)
    will_be = make_schedule(**rates | new, epochs=more)
    # The parts of a schedule begin and end with epochs, so these steps show any change.
    done = np.array([*range(0, step, steps_per_epoch), step - 1])
    jump = from_to(float(was(step - 1)), float(will_be(step)))
    changed = f"train.epochs={epochs}"
    if any(old.values()):
        changed += f" and restart_epochs={tuple(old['restart_epochs'])}"
    if np.allclose(was(done), will_be(done), rtol=1e-6, atol=0):
        return (
            f"this run had {changed} so far and has train.epochs={more} now; the "
            f"learning rate goes from {jump} at step {step:,}"
        )
    elsewhere = f"--config.train.epochs={more} {another_workdir(folder, more)}"
    if more > epochs:
        here = restart_options(now, old, epochs=epochs, more=more)
        way = f"set {here} (the schedule ends as planned and starts again)"
    else:
        way = f"set --config.train.epochs={epochs} again"
    raise UserError(
        f"{folder} has trained {step:,} steps with {changed}; with this config's "
        f"train.epochs={more} the learning rate would jump from {jump}. To continue, "
        f"{way}, or train from the start with {elsewhere}"
    )


def from_to(before: float, after: float) -> str:
    """Writes two rates with as many digits as it takes to tell them apart."""
    texts = ("", "")
    for digits in range(2, 8):
        texts = (f"{before:.{digits}g}", f"{after:.{digits}g}")
        if texts[0] != texts[1] or before == after:
            break
    return " to ".join(texts)


def how_to_train_on(config: Mapping[str, Any], folder: Path) -> str:
    """Says which options train a finished run for twice its epochs."""
    epochs = config["train"]["epochs"]
    more = f"--config.train.epochs={2 * epochs}"
    if config["optimizer"]["schedule"] == "steps":
        return f"to continue training at its last learning rate: {more}"
    old = {name: config["optimizer"].get(name, ()) for name in ENDS}
    here = restart_options(config, old, epochs=epochs, more=2 * epochs)
    return (
        "to continue training, with a learning rate that starts again and falls to 0, "
        f"add {here}; to train longer from the start, add {more} "
        f"{another_workdir(folder, 2 * epochs)}"
    )


def another_workdir(folder: Path, epochs: int) -> str:
    """Returns the option that puts a longer run beside a workdir."""
    return f"--workdir={shlex.quote(f'{folder}-{epochs}-epochs')}"


def restart_options(
    config: Mapping[str, Any], old: Mapping[str, Any], *, epochs: int, more: int
) -> str:
    """Returns the options that start the schedule again after `epochs`, up to `more`.

    Args:
      config: of the run.
      old: the restarts that it has already.
      epochs: of the run so far.
      more: epochs of the longer run.
    """
    starts = (*old["restart_epochs"], epochs)
    rates = (*old["restart_rates"], config["optimizer"]["learning_rate"])
    return (
        f"--config.train.epochs={more} "
        f"--config.optimizer.restart_epochs={','.join(map(str, starts))} "
        f"--config.optimizer.restart_rates={','.join(map(str, rates))}"
    )
