"""Makes a workdir such as a run on a few digits leaves, without training."""

import json
from pathlib import Path

from configs import digits
from invariance_propagation.data import sources
from invariance_propagation.store.checkpoint import Checkpoints
from tests.stored_run import ENCODER, NUM_EXAMPLES, state_of

STEPS_PER_EPOCH, START_EPOCH = 3, 1
SCORES = {"knn": 0.75, "knn_embedding": 0.5, "knn_bank": 0.25}
OVERLAPS = (0.0, 0.5, 0.125)


def rows() -> list[dict]:
    """Returns rows of three epochs, with propagation from the second on."""
    found = [{"step": 0, "epoch": 0} | SCORES]
    for epoch, overlap in enumerate(OVERLAPS):
        row = {"step": STEPS_PER_EPOCH * (epoch + 1), "epoch": epoch}
        row |= {"instance": 4.0 - epoch, "propagation": 2.0, "loss": 5.0}
        row |= {"propagation_weight": 2.0 * (epoch >= START_EPOCH)}
        row |= {"neighbor_overlap": overlap, "learning_rate": 0.1 / (epoch + 1)}
        row |= {"images_per_second": 1000.0, "waiting_for_data": 0.03125}
        row |= {"purity": 0.5, "purity_by_hop": [0.75, 0.5, None]}
        found.append(row)
    return found


def finish_run(
    workdir: Path,
    *,
    checkpoint: bool = True,
    method: dict | None = None,
    **changes: object,
) -> Path:
    """Writes a run; `changes` apply to the section `method`, `method` replaces it.

    Returns the workdir.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (workdir / "metrics.jsonl").write_text(lines)
    if not checkpoint:
        return workdir
    config = digits.get_config()
    config.encoder.update(ENCODER)
    config.data.num_train = NUM_EXAMPLES
    config.method.update({"background_size": 8, "num_hard": 4} | changes)
    own = {} if method is None else {"method": method}
    # An earlier version did not note the memory in the facts; the method knows it.
    noted = {"memory": {"rows": "bank", "neighbors": "graph"}} if own else {}
    options = {"name": "digits", "folder": "", "num_train": NUM_EXAMPLES}
    step = rows()[-1]["step"]
    facts = {
        "dataset": "digits",
        "num_examples": NUM_EXAMPLES,
        "batch_size": NUM_EXAMPLES // STEPS_PER_EPOCH,
        "digest": sources.load(**options).digest(),
        "config": json.loads(config.to_json_best_effort()) | own,
        "versions": {"jax": "1.2.3"},
        "step": step,
    }
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(step, state_of(step, dict(config.encoder)), facts | noted)
    checkpoints.finish()
    checkpoints.close()
    return workdir
