"""A run of main.py that takes seconds: digits, a narrow network, few images."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import digits
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.run import Run, state_shapes

ROOT = Path(__file__).parent.parent
CHANGES = {
    "data.num_train": 256,
    "encoder.depth": 6,
    "encoder.width": 4,
    "encoder.hidden": 8,
    "method.background_size": 64,
    "method.num_hard": 50,
    "method.start_epoch": 2,
    "method.temperature": 0.1,
    "optimizer.learning_rate": 0.06,
    "optimizer.warmup_epochs": 0,
    "train.batch_size": 32,
    "train.epochs": 4,
    "train.evaluate_every": 2,
    "train.checkpoint_every": 5,
    "train.log_every": 3,
}


def flags_of(changes: dict[str, Any], *, method: str = "") -> list[str]:
    """Returns the flags of a run on digits by a method, with changes."""
    config = f"--config=configs/digits.py:{method}".rstrip(":")
    return [config, *(f"--config.{name}={value}" for name, value in changes.items())]


TINY = flags_of(CHANGES)
# Columns that depend on the clock.
TIMES = ("images_per_second", "seconds_left", "waiting_for_data")


def tiny_config(**changes: Any) -> ConfigDict:
    """Returns the config of `TINY`, with `changes` named 'section__key'."""
    config = digits.get_config()
    config.num_devices = 2
    config.update_from_flattened_dict(CHANGES)
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def final_state(workdir: Path, **changes: Any) -> tuple[int, Any]:
    """Reads step and arrays of the newest checkpoint of a tiny run."""
    run = build(tiny_config(**changes))
    checkpoints = Checkpoints(workdir, keep=9)
    shapes = state_shapes(run)
    step, state, _ = checkpoints.restore(shapes)
    checkpoints.close()
    return step, state


def rows_without_times(workdir: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl without the columns that depend on the clock."""
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_rows(workdir)
    ]


# Settings of `train` that the step does not depend on.
OUTSIDE_THE_STEP = {
    "checkpoint_every",
    "evaluate_every",
    "gather_checkpoints",
    "keep_checkpoints",
    "log_every",
    "num_threads",
    "num_workers",
    "start_over",
    "stop_after_hours",
    "stop_after_steps",
    "tensorboard",
}
STEPS: dict[str, Run] = {}


def build_once(config: ConfigDict, **options: Any) -> Run:
    """Builds a run; runs of the same settings share their step, traced and compiled once."""
    run = build(config, **options)
    if options:
        return run
    settings = json.loads(config.to_json_best_effort())
    for name in OUTSIDE_THE_STEP:
        settings["train"].pop(name)
    settings = {
        name: settings[name] for name in settings if name not in ("knn", "task")
    }
    key = json.dumps([settings, run.num_examples], sort_keys=True)
    shared = STEPS.setdefault(key, run)
    return run._replace(runner=shared.runner, step=shared.step, embed=shared.embed)
