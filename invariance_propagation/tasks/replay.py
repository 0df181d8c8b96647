"""Repeats a training step that failed, and shows what led to it."""

import json
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from invariance_propagation import settings
from invariance_propagation.errors import UserError
from invariance_propagation.files.paths import local
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.train import messages
from invariance_propagation.train.averages import NotFinite, Window
from invariance_propagation.train.build import build
from invariance_propagation.train.resume import failure
from invariance_propagation.train.resume.identity import check_same_run, identity_of
from invariance_propagation.train.resume.saver import first_broken, try_step
from invariance_propagation.train.resume.workdir import with_noted_steps
from invariance_propagation.train.run import Run, state_shapes
from invariance_propagation.train.step import TrainState

SHOWN = 10  # steps that are listed, up to the failed one
FIRST_IMAGES = 5


def replay(config: ConfigDict, workdir: str) -> bool:
    """Repeats the last failed step of a run, starting from the last good checkpoint.

    Prints the metrics of the steps before it, the largest weight, and the images of the
    step. Writes nothing. With a changed setting in the config, it shows whether that
    setting would have prevented the failure.

    Args:
      config: the run's config, as for training.
      workdir: the run's folder, or one of its `failed_step_*` folders.

    Returns:
      Whether the step's results are finite now.

    Raises:
      UserError: no step has failed, or the config belongs to another run.
      TrainingError: the checkpoint cannot be read.
    """
    folder = failure.find(local(workdir, key="--workdir"))
    facts = failure.read(folder)
    run = build(config)
    checkpoints = Checkpoints(folder, keep=1)
    try:
        found = checkpoints.facts()
        run = with_noted_steps(run, config, checkpoints)
        own = {"config": json.loads(config.to_json_best_effort())}
        own["config"]["data"]["on_change"] = "refuse"  # the step needs the same images
        check_same_run(found, identity_of(run) | own, run, folder)
        if found is not None:
            before = settings.by_new_names(found["config"])
            messages.changed_settings(before, own["config"])
        restored = checkpoints.restore(state_shapes(run))
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(f"{folder} has no checkpoint any more: run the training again")
    start, arrays, _ = restored
    if not start < facts["step"] <= run.total_steps:
        raise UserError(
            f"{folder}: step {facts['step']:,} does not follow its checkpoint of step "
            f"{start:,} in a run of {run.total_steps:,} steps: run the training again"
        )
    print(f"replaying steps {start + 1:,} to {facts['step']:,} from {folder}")
    return _replay(run, run.runner.put(arrays, run.spec), start, facts)


def _replay(run: Run, state: TrainState, start: int, facts: dict[str, Any]) -> bool:
    feed, end = run.input.feed(start=start, stop=facts["step"]), facts["step"]
    window = Window()
    try:
        for step, given in enumerate(feed, start):
            largest = _largest_weight(run, state)
            state, metrics = run.step(state, *given)
            if end - step <= SHOWN:
                print(_line(run, step, metrics, largest), flush=True)
            window.add(step, metrics)
            window.settle()
        largest = _largest_weight(run, state)
        # The run checks this before it saves: metrics can be finite although the step
        # breaks the weights.
        broken = first_broken(run.runner.fetch(state, run.spec, run.num_examples))
        if broken:
            raise NotFinite(end - 1, broken)
        try_step(run, end, state, given)
    except NotFinite as error:
        _print_images(facts)
        where = "at the same step" if error.step + 1 == end else "at an earlier step"
        print(f"{error}: it fails again, {where}")
        return False
    finally:
        feed.close()
    _print_images(facts)
    print(
        f"step {end:,} passes with these settings (largest weight afterwards "
        f"{largest:.3g}): train with them to continue"
    )
    return True


def _line(run: Run, step: int, metrics: dict[str, jax.Array], largest: float) -> str:
    shown = [f"{name} {float(x):.6g}" for name, x in metrics.items()]
    shown += [f"lr {float(run.schedule(step)):.3g}", f"largest weight {largest:.3g}"]
    return f"step {step + 1:,}: " + "  ".join(shown)


def _print_images(facts: dict[str, Any]) -> None:
    names = facts.get("sample_ids") or [f"row {row}" for row in facts["rows"]]
    first = ", ".join(map(str, names[:FIRST_IMAGES]))
    print(
        f"in the run, step {facts['step']:,} failed ({', '.join(facts['values'])}) with "
        f"{len(names)} images ({first} ...; {failure.FILE} lists all)"
    )


def _largest_weight(run: Run, state: TrainState) -> float:
    """Returns the largest magnitude of a parameter; NaN if one is NaN."""
    params = jax.device_get(run.runner.local(state.params))
    sizes = [np.abs(np.asarray(x, np.float64)).max() for x in jax.tree.leaves(params)]
    return float(np.max(sizes))
