"""What a run tells people at its start, and when propagation starts."""

from pathlib import Path
from typing import Any

import jax

from invariance_propagation import monitor, processes
from invariance_propagation.checkpoint import FOLDER
from invariance_propagation.progress import Progress
from invariance_propagation.setup import Run
from invariance_propagation.train_state import TrainState

# Below this share of neighbours kept between visits the graph is new each epoch. When
# the term starts it is 0.09 on digits, 0.08 on Fashion-MNIST (two thirds of the
# positives are right); 0.007 in a run of the latter whose neighbours then got worse.
STABLE_OVERLAP = 0.05


def run_starts(run: Run, folder: Path, state: TrainState, step: int) -> None:
    """What is trained on what, what is left out, and where a run goes on."""
    count = sum(x.size for x in jax.tree.leaves(state.params))
    print(
        f"{run.dataset.name}: {run.num_examples:,} training images; encoder of "
        f"{count:,} parameters; {run.total_steps:,} steps of "
        f"{run.options.batch_size} images ({run.options.epochs} epochs) on "
        f"{run.runner.num_devices} {jax.default_backend()} device(s)"
        + (f" of {jax.process_count()} processes" if processes.several() else "")
    )
    if not run.has_labels:
        print("no labels: kNN and purity are left out")
    voters = f"kNN by K = {run.knn.num_neighbors}" if run.has_knn else ""
    print("; ".join(filter(None, (run.method.about, voters))))
    start_epoch = run.method.start_epoch
    if start_epoch is not None and start_epoch >= run.options.epochs:
        print(
            f"warning: propagation starts in epoch {start_epoch} "
            f"(method.start_epoch), but there are only {run.options.epochs} "
            "(train.epochs): this trains instance discrimination alone"
        )
    if step:
        print(f"continuing from step {step:,}: {folder / FOLDER}")


def propagation_starts(
    row: dict[str, Any], before: dict[str, Any], progress: Progress
) -> None:
    """How good the positives are that the loss is given first, if these rows are it.

    There is no such moment where the term is on from the first row.
    """
    overlap, epoch = before.get("neighbor_overlap"), row["epoch"]
    if overlap is None or _propagates(before) or not _propagates(row):
        return
    text = f"epoch {epoch}: propagation starts; neighbours kept between visits "
    text += monitor.percent(overlap)
    if "purity" in before:
        hops = ", ".join(map(monitor.percent, before["purity_by_hop"]))
        purity = monitor.percent(before["purity"])
        text += f"; purity of the positives {purity} (by hop {hops})"
    progress.say(text)
    if overlap < STABLE_OVERLAP:
        progress.say(
            f"warning: fewer than {monitor.percent(STABLE_OVERLAP)} of the neighbours "
            "are kept between visits, so the graph is not stable yet: propagation may "
            f"do harm; a later start (method.start_epoch > {epoch}, or "
            "method.start='auto') may serve better"
        )


def _propagates(row: dict[str, Any]) -> bool:
    return row.get("propagation_weight", 0.0) > 0
