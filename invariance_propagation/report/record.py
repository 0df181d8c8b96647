"""Reads what a workdir tells about its run, and notes what is missing."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invariance_propagation import devices, settings
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset
from invariance_propagation.data.views import augment
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.cards import FOLDER, Card, read_card
from invariance_propagation.evaluation.features import make_embed
from invariance_propagation.methods import Notes
from invariance_propagation.store.facts import noted_steps_per_epoch
from invariance_propagation.store.memory import StoredMemory, notes_of, restore_memory
from invariance_propagation.store.restore import float32, restore_encoder
from invariance_propagation.train.journal import METRICS_FILE, read_rows
from invariance_propagation.train.monitor import read_summary


class Record(NamedTuple):
    """Holds what is on disk about a run.

    Attributes:
      name: name of the run in the report.
      workdir: the run's folder.
      rows: rows of metrics.jsonl.
      summary: content of summary.json; {} before the run is finished.
      facts: facts in the newest checkpoint; {} without a checkpoint.
      memory: memory in the newest checkpoint; None without one.
      notes: notes of its method.
      dataset: the data set it was trained on; None if it cannot be read now.
      cards: cards of its evaluations.
      missing: a sentence for each part that is missing.
    """

    name: str
    workdir: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    facts: dict[str, Any]
    memory: StoredMemory | None
    notes: Notes
    dataset: Dataset | None
    cards: list[Card]
    missing: list[str]

    @property
    def rows_of_memory(self) -> np.ndarray | None:
        """Returns float32 [N, d], comparable with embeddings; None without them."""
        return None if self.memory is None else self.memory.rows

    @property
    def config(self) -> dict[str, Any]:
        """Returns the run's config; {} without a checkpoint."""
        return self.facts.get("config", {})

    @property
    def steps_per_epoch(self) -> int:
        """Returns the number of steps in an epoch."""
        if self.facts:
            return noted_steps_per_epoch(self.facts)
        # Each epoch ends with a row: this is exact once one has ended.
        return max(row["step"] // (row["epoch"] + 1) for row in self.rows) or 1


def read_record(name: str, workdir: Path) -> Record:
    """Reads a run.

    Raises:
      UserError: there is no run.
      TrainingError: there are checkpoints, but none can be read.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder")
    rows = read_rows(workdir)
    if not rows:
        raise UserError(
            f"workdir={workdir} holds no {METRICS_FILE} with rows: name the --workdir "
            "of a run that has begun to train"
        )
    facts, memory, dataset, missing = {}, None, None, []
    try:
        memory = restore_memory(workdir)
        facts = memory.facts
    except UserError:
        missing.append(
            "There is no checkpoint yet: health, galleries and map are left out."
        )
    if memory is not None and memory.rows is None:
        missing.append(
            "This method keeps no embeddings of the images: health, nearest neighbours "
            "and map are left out."
        )
    if memory is not None:
        try:
            dataset = _dataset(facts)
        except UserError as error:
            missing.append(f"Pictures are left out: {error}.")
    cards = []
    for path in sorted((workdir / FOLDER).glob("*.json")):
        try:
            cards.append(read_card(path))
        except UserError as error:
            missing.append(f"{error}.")
    summary = read_summary(workdir) or {}
    notes = notes_of(facts) if facts else Notes()
    return Record(
        name=name,
        workdir=workdir,
        rows=rows,
        summary=summary,
        facts=facts,
        memory=memory,
        notes=notes,
        dataset=dataset,
        cards=cards,
        missing=missing,
    )


def embed_images(record: Record, images: np.ndarray) -> np.ndarray | None:
    """Embeds uint8 [n, H, W, C] with the newest checkpoint.

    Returns:
      float32 [n, d]; None if only the method knows how to call the head.
    """
    stored = restore_encoder(record.workdir)
    if not stored.has_head:
        return None
    chances = stored.config["augment"]
    options = {name: chances[name] for name in ("size", "mean", "std")}
    embed = make_embed(
        devices.make_runner("pmap", 1),
        float32(stored.encoder),
        partial(augment.normalize, **options),
        batch_size=len(images),
    )
    return embed(stored.params, stored.batch_stats, images).embedding


def _dataset(facts: dict[str, Any]) -> Dataset:
    """Reads the run's data set; raises UserError if it is missing or has changed."""
    config = facts["config"]
    name, folder = config["data"]["name"], config["data"]["folder"]
    if sources.must_be_fetched(name, folder):
        raise UserError(f"{name} is not prepared in {folder or 'the usual place'}")
    size = config["augment"]["size"]
    dataset = settings.call(
        sources.load, "data", config, size=size, seed=config["seed"]
    )
    if not dataset.has_digest(facts["digest"]):
        raise UserError(
            f"the training images of {facts['dataset']} are no longer those of the run"
        )
    return dataset
