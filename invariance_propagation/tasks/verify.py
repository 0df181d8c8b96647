"""Checks that a run that is interrupted and resumed ends with the same numbers.

It uses the user's config, data and devices: on a GPU, or with a method of the user's, the
answer cannot be known in advance.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from ml_collections import ConfigDict

from invariance_propagation.errors import (
    Stopped,
    TrainingError,
    UserError,
    from_words,
    to_words,
)
from invariance_propagation.store.checkpoint import FOLDER
from invariance_propagation.store.facts import leaves_of, path_of, read_facts, read_item
from invariance_propagation.store.rows import (
    folder_of,
    in_files,
    paths_of,
    read_rows,
)
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import METRICS_FILE
from invariance_propagation.train.pretrain import go_on
from invariance_propagation.train.step import TrainState

STEPS, SAVED_AT = 6, 3
FLAG = "--xla_gpu_deterministic_ops=true"
GROUPS = {
    "step": "step",
    "params": "parameters",
    "batch_stats": "batch statistics",
    "opt_state": "optimizer state",
    "memory": "memory",
}
NAMED = 5  # arrays of a group that a message names


def verify_resume(config: ConfigDict) -> None:
    """Trains a few steps in one go, trains again from a checkpoint, and compares.

    Each run is a separate process that takes ordinary training steps in a temporary
    folder, which is removed at the end. Held-out images are not evaluated.

    Raises:
      UserError: bad input.
      TrainingError: an array differs, or a run cannot continue.
    """
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as place:
        whole, resumed = Path(place, "whole"), Path(place, "resumed")
        print(f"1 of 2: {STEPS} steps without a break, in {place}", flush=True)
        train_elsewhere(config, whole, STEPS)
        _interrupt(whole, resumed)
        print(
            f"2 of 2: a new process resumes from the checkpoint of step {SAVED_AT}, as "
            "after a crash",
            flush=True,
        )
        train_elsewhere(config, resumed, STEPS - SAVED_AT)
        differing = compare(*(x / FOLDER / str(STEPS) for x in (whole, resumed)))
    backend = jax.default_backend()
    if differing:
        raise TrainingError(
            f"not exact here ({backend}): {differing} arrays differ (above){advice(backend)}"
        )
    print(
        f"exact here ({backend}): an interrupted run of this config reaches the same "
        "numbers, bit for bit"
    )


def train_steps(config: ConfigDict, workdir: Path, steps: int) -> None:
    """Trains `steps` steps, from the workdir's last checkpoint if it has one.

    Changes only those settings that are needed to stop after these steps.
    """
    config.train.update(
        checkpoint_every=SAVED_AT,
        keep_checkpoints=STEPS,
        evaluate_every=0,
        tensorboard=False,
        stop_after_steps=steps,
        stop_after_hours=0.0,
        start_over=False,
    )
    run = build(config)
    enough = STEPS // run.steps_per_epoch + 1
    if config.train.epochs < enough:  # or the run would end and write its summary
        config.train.epochs = enough
        run = build(config, dataset=run.dataset)
    later = run.method.notes.starts
    if later is not None and later * run.steps_per_epoch >= STEPS:
        print(
            f"note: a part of the loss starts in epoch {later}, after these steps, and is "
            "not checked: let it start earlier to check it as well"
        )
    # Evaluation takes time and changes nothing.
    run = run._replace(dataset=run.dataset._replace(held_out=None))
    try:
        go_on(run, config, workdir)
    except Stopped as stopped:
        if stopped.status:
            raise


def compare(folder: Path, other: Path) -> int:
    """Compares two checkpoints, and prints a line for each group of arrays.

    Returns:
      The number of arrays that differ.
    """
    one, two = (read_facts(x)["arrays"] for x in (folder, other))
    differing = [name for name in one if one[name] != two.get(name)]
    differing += [name for name in two if name not in one]
    arrays = [_arrays(x) if differing else {} for x in (folder, other)]
    for field in TrainState._fields:
        names = [name for name in one | two if path_of(name)[0] == field]
        wrong = [name for name in names if name in differing]
        if wrong:
            told = [_difference(name, *arrays) for name in wrong[:NAMED]]
            more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            text = (
                f"{len(wrong)} of {len(names)} arrays differ: {'; '.join(told)}{more}"
            )
        elif names:
            text = f"{len(names)} array{'s' * (len(names) > 1)}, the same bit for bit"
        else:
            text = "none"
        print(f"{GROUPS[field]}: {text}")
    return len(differing)


def train_elsewhere(config: ConfigDict, workdir: Path, steps: int) -> None:
    """Runs `train_steps` in another process, which ends when this one ends."""
    failure = workdir.parent / "failure.json"
    environment = os.environ | {
        # So that methods of the user are found there too.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONIOENCODING": ":backslashreplace",
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(workdir), str(steps), str(failure)],
        stdin=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches only this process, which ends the other
    )
    try:
        process.stdin.write(config.to_json_best_effort() + "\n")
        process.stdin.flush()
        status = process.wait()
    except BrokenPipeError:
        status = process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if failure.exists():
        raise from_words(json.loads(failure.read_text(encoding="utf-8")))
    if status:
        raise TrainingError(
            f"the training process ended with status {status} (its messages are above): "
            "fix the cause and verify again"
        )


def _interrupt(whole: Path, resumed: Path) -> None:
    """Makes the workdir of a run that was killed after the checkpoint in the middle."""
    (resumed / FOLDER).mkdir(parents=True)
    for part in paths_of(whole / FOLDER, SAVED_AT):
        shutil.move(part, resumed / FOLDER)
    shutil.copy(whole / METRICS_FILE, resumed)


def advice(backend: str) -> str:
    """Says what to do about numbers that differ, as the end of a sentence."""
    if backend != "gpu":
        return ": please report it, with this config"
    if FLAG in os.environ.get("XLA_FLAGS", ""):
        return f", although XLA_FLAGS has {FLAG}: please report it, with this config"
    return (
        f": a GPU adds numbers in any order unless XLA_FLAGS={FLAG} is set, which costs "
        "some speed; set it and verify again"
    )


def _arrays(folder: Path) -> dict[tuple[str, ...], np.ndarray]:
    """Reads all arrays of a checkpoint, by their paths."""
    state = read_item(ocp.PyTreeCheckpointHandler(), folder / "state")
    found = {path_of(name): np.asarray(x) for name, x in leaves_of(state).items()}
    facts = read_facts(folder)
    for name in in_files(facts["arrays"]):
        place = folder_of(folder.parent, facts["step"])
        found[path_of(name)] = read_rows(place, facts["arrays"][name])
    return found


def _difference(
    name: str, one: Mapping[tuple, np.ndarray], two: Mapping[tuple, np.ndarray]
) -> str:
    path = path_of(name)
    title = "/".join(path[1:]) or path[0]
    x, y = one.get(path), two.get(path)
    if x is None or y is None or x.shape != y.shape:
        return f"{title} has another shape"
    distance = np.abs(x.astype(np.float64) - y.astype(np.float64))
    count = int(np.sum(x != y))
    return f"{title} in {count:,} of {x.size:,} numbers by up to {distance.max():.2g}"


def with_tuples(value: Any) -> Any:
    """Turns lists back into tuples, which configs have and JSON does not."""
    if isinstance(value, dict):
        return {name: with_tuples(x) for name, x in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def _end_with_parent(place: Path) -> None:
    """Ends this process when its input ends, and removes the files it was writing."""
    sys.stdin.read()
    for _ in range(3):  # a save may still be adding files
        shutil.rmtree(place, ignore_errors=True)
    os._exit(1)


def _main() -> None:
    workdir, steps, failure = sys.argv[1:]
    logging.set_verbosity(logging.ERROR)  # Orbax warns about frequent saves
    config = ConfigDict(with_tuples(json.loads(sys.stdin.readline())))
    place = Path(workdir).parent
    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()
    try:
        train_steps(config, Path(workdir), int(steps))
    except (UserError, TrainingError) as error:
        words = to_words(error, "the training process")
        Path(failure).write_text(json.dumps(words), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    _main()
