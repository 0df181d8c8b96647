"""Keeps what is needed to repeat a step that has made NaN or infinity.

A folder in the workdir, such as `failed_step_17`, holds `failure.json` and, under
`checkpoints/`, the last sound state of the run.
"""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from invariance_propagation.data.steps import step_indices
from invariance_propagation.errors import UserError
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import writing
from invariance_propagation.store.checkpoint import FOLDER, steps_in
from invariance_propagation.store.rows import paths_of
from invariance_propagation.train.averages import NotFinite
from invariance_propagation.train.run import Run
from invariance_propagation.version import versions

NAME = "failed_step_"
FILE = "failure.json"


def indices_of(run: Run, step: int) -> np.ndarray:
    """Returns the rows int32 [B] that a step visits; `step` steps come before it."""
    return step_indices(
        step,
        seed=run.seed,
        num_examples=run.num_examples,
        batch_size=run.options.batch_size,
        steps_per_epoch=run.steps_per_epoch,
    )


def keep(run: Run, workdir: Path, error: NotFinite) -> str:
    """Writes the folder of a failed step.

    Its checkpoint consists of links to the files of the newest checkpoint. So it takes
    no space, and it stays when the run deletes that one.

    Args:
      run: the run of the step.
      workdir: of the run; its checkpoints are sound and completely written.
      error: says which step and which numbers.

    Returns:
      The message that ends the run: how to look at the step, and how to continue.

    Raises:
      TrainingError: the folder cannot be written.
    """
    step, ids = error.step, run.dataset.train.ids
    good = next(iter(steps_in(workdir)), None)
    if good is None:
        return f"{error}, before the first step: start from other weights"
    rows = indices_of(run, step).tolist()
    facts = {
        "step": step + 1,
        "good_step": good,
        "epoch": step // run.steps_per_epoch,
        "seed": run.seed,
        # As text: JSON has neither NaN nor infinity.
        "values": {name: str(x) for name, x in error.values.items()},
        "learning_rate": float(run.schedule(step)),
        "rows": rows,
        "sample_ids": None if ids is None else [ids[row] for row in rows],
        "versions": versions(),
    }
    folder = _folder_for(workdir, facts)
    path = folder / FILE
    with writing(path):
        place = folder / FOLDER / str(good)
        if not place.exists():
            for part in paths_of(workdir / FOLDER, good):
                shutil.copytree(
                    part,
                    place.with_name(part.name),
                    copy_function=_link,
                    dirs_exist_ok=True,  # of a copy that was interrupted
                )
        with draft_of(path) as draft:
            draft.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return (
        f"{error}. The last good step is {good}, and its checkpoint stays. To look at "
        f"the failed step, run the same command with --config.task=replay (it reads "
        f"{folder}). To continue from step {good}, run the same command with "
        "another setting, such as a smaller optimizer.learning_rate or a larger "
        "temperature of the method"
    )


def find(workdir: Path) -> Path:
    """Returns the newest folder of a failed step in a workdir, or the folder itself.

    Raises:
      UserError: no step of the run has failed.
    """
    if (workdir / FILE).is_file():
        return workdir
    folders = [path.parent for path in workdir.glob(f"{NAME}*/{FILE}")]
    if not folders:
        raise UserError(
            f"{workdir} has no {NAME}*: no step of this run has failed, so there is "
            "nothing to replay"
        )
    return max(folders, key=lambda folder: (folder / FILE).stat().st_mtime_ns)


def read(folder: Path) -> dict[str, Any]:
    """Reads the facts of a failed step.

    Raises:
      UserError: the file cannot be read, or somebody has changed it.
    """
    path = folder / FILE
    try:
        with open_file(path) as file:
            facts = json.loads(file.read())
        return facts | {
            "step": int(facts["step"]),
            "good_step": int(facts["good_step"]),
            "values": dict(facts["values"]),
            "rows": list(facts["rows"]),
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({error or type(error).__name__}): run the training "
            "again, which writes it anew"
        ) from error


def _folder_for(workdir: Path, facts: dict[str, Any]) -> Path:
    """Returns a folder that does not exist, or holds the same failure already."""
    first = workdir / f"{NAME}{facts['step']}"
    for number in itertools.count(1):
        folder = first if number == 1 else Path(f"{first}_{number}")
        if not folder.exists():
            return folder
        try:
            if read(folder) == facts:
                return folder
        except UserError:
            continue


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without links, such as a Drive in Colab
        shutil.copy2(source, target)
