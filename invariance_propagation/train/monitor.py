"""Measures how well a run learns: along the way, and in the table at its end."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from invariance_propagation.data.order import random_rows
from invariance_propagation.errors import percent
from invariance_propagation.evaluation import meaning
from invariance_propagation.evaluation.protocols.knn import knn_accuracy
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import writing
from invariance_propagation.methods import Notes, part_of
from invariance_propagation.models import Outputs
from invariance_propagation.phases import phase
from invariance_propagation.store.checkpoint import FOLDER
from invariance_propagation.store.facts import digest_of_facts
from invariance_propagation.train.averages import NotFinite
from invariance_propagation.train.journal import METRICS_FILE
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState

SUMMARY_FILE = "summary.json"
DIGEST = "digest"  # of the rest of that file
PREFIX = "knn"  # begins the name of each score
ALIKE = "knn_all_alike"
# With more images than this, a method's scores come from a sample of this size.
MEASURED = 4096
MEASURED_SAMPLE = 0x9D2C7F


def measure(
    run: Run, state: TrainState, *, num_images: int = MEASURED
) -> dict[str, Any]:
    """Asks the method for its scores by labels; {} without labels or scores.

    Args:
      run: the run.
      state: on the devices.
      num_images: the size of the sample, if there are more images. It is random, because
        the first images of a sorted folder belong to its first classes.
    """
    if not run.has_labels or run.method.notes.measure is None:
        return {}
    indices = random_rows(
        min(num_images, run.num_examples),
        num_examples=run.num_examples,
        seed=run.seed,
        purpose=MEASURED_SAMPLE,
    )
    # Not `fetch`, which all processes would have to call at the same time.
    memory = run.runner.local(state.memory)
    return run.method.notes.measure(memory, run.dataset.train.labels, indices)


def knn(run: Run, state: TrainState) -> dict[str, float]:
    """Measures accuracy on held-out images, in [0, 1].

    Returns:
      With `knn.embed_anew`: `knn`, by the features of the backbone, and `knn_embedding`,
      by the output of the head, both against training images embedded for this. With
      `train.gather_checkpoints`, if the method's memory holds a row for each image:
      embeddings against these rows, under a name such as `knn_ROWS`. If all held-out
      images have the same features, which no score shows: `knn_all_alike`, 1.

    Raises:
      NotFinite: a feature is NaN or infinite.
    """
    queries, scores = _embed(run, state, run.dataset.held_out.images), {}
    if run.knn.embed_anew:
        trained = _embed(run, state, run.dataset.train.images)
        scores["knn"] = _accuracy(run, trained.features, queries.features)
        scores["knn_embedding"] = _accuracy(run, trained.embedding, queries.embedding)
    rows = run.kept_rows
    if rows:
        memory = run.runner.fetch(state.memory, run.spec.memory, run.num_examples)
        score = _accuracy(run, part_of(memory, rows), queries.embedding)
        scores[f"{PREFIX}_{rows}"] = score
    if meaning.all_alike(queries.features):
        scores[ALIKE] = 1.0
    return scores


def remarks(run: Run) -> list[str]:
    """Returns remarks on labels and K that help to read the scores."""
    labels = run.dataset.train.labels
    if not run.has_labels:
        return []
    if not run.has_knn:
        return meaning.remarks(labels, labels)
    votes = meaning.remarks_on_votes(run.knn.num_neighbors, labels)
    return meaning.remarks(labels, run.dataset.held_out.labels) + votes


def has_scores(row: dict[str, Any]) -> bool:
    """Returns whether a row of metrics holds what `knn` returned."""
    return any(name.startswith(PREFIX) for name in row)


def summarize(
    run: Run,
    state: TrainState,
    steps: int,
    folder: Path,
    untrained: dict[str, float],
    trained: dict[str, float],
) -> dict[str, Any]:
    """Writes summary.json and prints its table.

    Args:
      run: the run.
      state: after the last step, on the devices.
      steps: the number of steps taken.
      folder: the workdir.
      untrained: what `knn` measured before the first step; {} without held-out labels.
      trained: what `knn` measured after the last step, likewise.

    Returns:
      The summary.

    Raises:
      TrainingError: the file cannot be written.
    """
    with phase("measuring for the summary"):
        summary = {"steps": steps, "workdir": str(folder)}
        summary |= _scores(run, state, untrained, trained)
    write_summary(folder, summary)
    print(_table(summary, folder, run.method.notes))
    return summary


def _scores(
    run: Run, state: TrainState, untrained: dict[str, float], trained: dict[str, float]
) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    if trained:
        summary |= {
            "knn_neighbors": run.knn.num_neighbors,
            "knn_raw_pixels": _knn_of_pixels(run),
            "knn_untrained": untrained.get("knn"),
            "knn_trained": trained.get("knn"),
            "knn_embedding": trained.get("knn_embedding"),
        }
        summary |= {
            name: x for name, x in trained.items() if name not in ("knn", ALIKE)
        }
    summary |= measure(run, state, num_images=run.num_examples)
    known = remarks(run)
    known += run.method.notes.remarks(run.runner.local(state.memory))
    if ALIKE in trained:
        known.append("all held-out images have the same features: nothing is learnt")
    if known:
        summary["remarks"] = known
    return summary


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json, with a digest of its content.

    Raises:
      TrainingError: the file cannot be written.
    """
    path, content = folder / SUMMARY_FILE, summary | {DIGEST: _digest(summary)}
    with writing(path), draft_of(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Reads the summary of the run that finished in a workdir.

    None if there is none, or if it is not as it was written: it is then measured again.
    """
    try:
        with open_file(folder / SUMMARY_FILE) as file:
            summary = json.loads(file.read())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(summary, dict) or summary.pop(DIGEST, "") != _digest(summary):
        return None
    return summary


def _digest(summary: dict[str, Any]) -> str:
    # The same for the same run in another folder.
    return digest_of_facts(summary | {"workdir": ""})[:16]


def repeat_summary(
    summary: dict[str, Any], folder: Path, notes: Notes, advice: str
) -> dict[str, Any]:
    """Says that a run is finished, prints its table again, and returns its summary.

    Args:
      summary: of the run.
      folder: its workdir.
      notes: of its method.
      advice: how to continue training.
    """
    print(f"{folder} is finished; {advice}")
    print(_table(summary, folder, notes))
    return summary


def describe(scores: dict[str, float]) -> str:
    """Returns the scores of `knn` as a phrase."""
    known = [
        f"{percent(score)} {_way(name)}"
        for name, score in scores.items()
        if name != ALIKE
    ]
    if ALIKE in scores:
        known.append("all held-out images have the same features")
    return ", ".join(known)


def _way(name: str) -> str:
    """Returns how a score was measured: 'against the rows' for 'knn_rows'."""
    ways = {"knn": "by features", "knn_embedding": "by embedding"}
    return ways.get(name) or f"against the {name.removeprefix(PREFIX + '_')}"


def _table(summary: dict[str, Any], folder: Path, notes: Notes) -> str:
    lines = [""]
    if "knn_trained" in summary:
        scores = {
            "raw pixels": summary["knn_raw_pixels"],
            "untrained": summary["knn_untrained"],
            "trained": summary["knn_trained"],
            "trained, by embedding": summary["knn_embedding"],
        }
        if notes.rows:
            score = summary.get(f"{PREFIX}_{notes.rows}")
            scores[f"trained, against the {notes.rows}"] = score
        lines += [
            f"weighted kNN of the held-out images, K={summary['knn_neighbors']}",
            *(
                f"  knn {name}: {percent(score)}"
                for name, score in scores.items()
                if score is not None
            ),
        ]
    lines += notes.table(summary)
    lines += [f"note: {remark}" for remark in summary.get("remarks", ())]
    lines += [
        f"checkpoints: {folder / FOLDER}",
        f"logs: {folder / METRICS_FILE}",
        f"next: {_program()} --config=configs/report.py "
        f"--workdir={shlex.quote(str(folder))}",
    ]
    return "\n".join(lines)


def _program() -> str:
    """Returns how to start the program: as this process was, or by main.py."""
    installed = Path(sys.argv[0]).name == "invariance-propagation"
    return "invariance-propagation" if installed else "python main.py"


def _embed(run: Run, state: TrainState, images: np.ndarray) -> Outputs:
    """Embeds images; raises NotFinite, and blames the step that made the state."""
    outputs = run.embed(state.params, state.batch_stats, images)
    for name, values in outputs._asdict().items():
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(broken):
            step = int(run.runner.local(state.step))
            what = f"{name} of {len(broken):,} of {len(images):,} images after it"
            raise NotFinite(step - 1, {f"{what} (first number {broken[0]})": np.nan})
    return outputs


def _knn_of_pixels(run: Run) -> float | None:
    """Returns None for streamed pictures, whose pixels do not fit into memory."""
    train, held_out = run.dataset.train, run.dataset.held_out
    if not isinstance(train.images, np.ndarray):
        return None

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32)

    return _accuracy(run, flat(train.images), flat(held_out.images))


def _accuracy(run: Run, features: jax.Array, queries: jax.Array) -> float:
    return knn_accuracy(
        features,
        run.dataset.train.labels,
        queries,
        run.dataset.held_out.labels,
        num_neighbors=run.knn.num_neighbors,
        temperature=run.knn.temperature,
    )
