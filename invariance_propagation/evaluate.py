"""Evaluates a checkpoint by the protocols asked for: a card each, and tables of them."""

import functools
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from invariance_propagation import parallel, settings
from invariance_propagation.data import sources
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.cards import (
    FOLDER,
    Card,
    read_card,
    table,
    write_card,
)
from invariance_propagation.evaluation.published import published
from invariance_propagation.evaluation.recipes import Finetune, Linear
from invariance_propagation.origin import origin
from invariance_propagation.protocols.bench import (
    PIXELS,
    RANDOM,
    Bench,
    Subject,
    View,
    check_labels,
    make_subject,
    pixels,
    untrained,
)
from invariance_propagation.protocols.jobs import PROTOCOLS, Job, Request
from invariance_propagation.restore import (
    SUFFIXES,
    Backbone,
    restore_backbone,
    restore_encoder,
    workdir_of,
)

TOP_LEVEL = ("task", "checkpoint", "protocols", "num_seeds", "num_threads")
TOP_LEVEL += ("parallel", "num_devices")
SECTIONS = ("data", "view", "knn", "linear", "semi", "finetune", "places")
# Images that one pass of the widest protocol looks at; what devices must divide.
BATCH_SIZE = 256


def print_evaluation(config: ConfigDict, workdir: str | None) -> list[Card]:
    """Measures a checkpoint, a random encoder and raw pixels; prints tables.

    Args:
      config: as from configs/evaluate.py.
      workdir: where cards go; None for the workdir that the checkpoint is of.

    Returns:
      The cards. Each is written when it is known, seed by seed, and what is on a card
      already is not measured again.

    Raises:
      UserError: bad input.
      TrainingError: a checkpoint that cannot be read, or a loss that is not finite.
    """
    names = _check(config)
    folder = _folder(config.checkpoint, workdir)
    backbone, run = _restore(config.checkpoint)
    request = _request(config, run, backbone.channels, folder)
    rows = _rows(config.checkpoint, backbone, run)
    jobs = (job for name in names for job in PROTOCOLS[name](request))
    cards = []
    for _, group in itertools.groupby(jobs, key=lambda job: id(job.bench)):
        for found in _measure(list(group), rows, config.num_seeds, folder):
            cards += found
            print("\n" + table(found, published(found[0])), flush=True)
    print(f"\ncards: {folder / FOLDER}")
    return cards


def _check(config: ConfigDict) -> list[str]:
    """The names of the protocols, if all is as it should be."""
    settings.check_names(config, (*TOP_LEVEL, *SECTIONS))
    for section, options in (("linear", Linear), ("semi", Finetune)):
        settings.check_names(config[section], options._fields, prefix=f"{section}.")
    if not config.checkpoint:
        raise UserError("--config.checkpoint is missing: a run's workdir, or weights")
    if config.num_seeds < 1:
        raise UserError(f"num_seeds={config.num_seeds}: set it to 1 or above")
    names = [name.strip() for name in config.protocols.split(",")]
    for name in names:
        if name not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise UserError(f"protocols: {name!r} is none of {known}")
    return names


def _folder(checkpoint: str, workdir: str | None) -> Path:
    if workdir is not None:
        return Path(workdir).absolute()
    if Path(checkpoint).suffix in SUFFIXES:
        raise UserError(
            f"--workdir is missing: {checkpoint} is of no run, so name a folder for "
            "the cards"
        )
    return workdir_of(checkpoint)


def _restore(checkpoint: str) -> tuple[Backbone, dict[str, Any] | None]:
    """A backbone, and the config of the run that it is of, if it is of one."""
    backbone = restore_backbone(checkpoint)
    if Path(checkpoint).suffix in SUFFIXES:
        return backbone, None
    restored = restore_encoder(checkpoint)
    return backbone, restored.config | {"step": restored.step}


def _request(
    config: ConfigDict, run: dict[str, Any] | None, channels: int, folder: Path
) -> Request:
    data, view = dict(config.data), dict(config.view)
    if run is not None:
        data = run["data"] if not data["name"] else data
        own = run["augment"]
        view = {name: own[name] if x is None else x for name, x in view.items()}
    if not data["name"]:
        raise UserError(f"data.name is missing: {config.checkpoint} does not name any")
    for name, x in view.items():
        if x is None:
            raise UserError(f"view.{name} is missing: {config.checkpoint} has none")
    view = View(view["size"], tuple(view["mean"]), tuple(view["std"]))
    if len(view.mean) != channels or len(view.std) != channels:
        raise UserError(
            f"{config.checkpoint} is of images of {channels} channels, view.mean has "
            f"{len(view.mean)} and view.std {len(view.std)}: set them for its data"
        )
    parallel.one_cpu_device_per_core(BATCH_SIZE)
    runner = parallel.make_runner(config.parallel, config.num_devices)

    # Protocols that share a bench share the features of its images.
    @functools.lru_cache(maxsize=1)
    def bench(**changes: Any) -> Bench:
        section = {"data": data | changes}
        dataset = settings.call(sources.load, "data", section, size=view.size)
        shape = dataset.train.images.shape
        if shape[-1] != channels:
            raise UserError(
                f"{dataset.name} has images of {shape[-1]} channels, the encoder of "
                f"{config.checkpoint} takes {channels}: choose another data.name"
            )
        classes = check_labels(dataset)
        return Bench(runner, dataset, classes, view, config.num_threads)

    own = {name: config[name] for name in SECTIONS if name not in ("data", "view")}
    return Request(bench=bench, data=data, folder=folder, **own)


class Row(NamedTuple):
    """A row of each table: what a card says of it, its seeds, and how it is made."""

    about: dict[str, Any]
    by_chance: bool
    make: Callable[[Bench, int], Subject]


def _rows(
    checkpoint: str, backbone: Backbone, run: dict[str, Any] | None
) -> tuple[Row, Row, Row]:
    """The encoder, the same network untrained, and raw pixels."""
    module = backbone.module.clone(norm_axis_name=parallel.AXIS)
    network = {
        "depth": module.depth,
        "stem": module.stem,
        "width": module.width,
        "channels": backbone.channels,
    }
    name, weights = Path(checkpoint).name, {"digest": backbone.digest()}
    if run is not None:
        name, weights["step"] = f"step {run['step']}", run["step"]
    weights["path"] = checkpoint

    def trained(bench: Bench, seed: int) -> Subject:
        del seed
        parts = backbone.params, backbone.batch_stats
        return make_subject(bench, name, module, *parts)

    def random(bench: Bench, seed: int) -> Subject:
        return untrained(bench, module, seed)

    def raw(bench: Bench, seed: int) -> Subject:
        del seed
        return pixels(bench)

    def about(encoder: str, network: dict, checkpoint: dict) -> dict[str, Any]:
        return {"encoder": encoder, "network": network, "checkpoint": checkpoint}

    return (
        Row(about(name, network, weights), False, trained),
        Row(about(RANDOM, network, {}), True, random),
        Row(about(PIXELS, {}, {}), False, raw),
    )


def _measure(
    jobs: list[Job], rows: Iterable[Row], num_seeds: int, folder: Path
) -> list[list[Card]]:
    """For each of the jobs, which share a bench, the cards of all rows.

    A subject is made once for all jobs, and forgotten before the next: its features
    may take all the memory there is.
    """
    bench = jobs[0].bench
    cards: dict[int, list[Card]] = {i: [] for i in range(len(jobs))}
    for row in rows:
        due = {}
        for i, job in enumerate(jobs):
            if row.about["encoder"] == PIXELS and not (
                job.of_pixels and bench.has_pixels
            ):
                continue
            cards[i].append(_card(job, row, folder))
            seeds = range(num_seeds if row.by_chance or job.by_chance else 1)
            due[i] = set(seeds).difference(cards[i][-1].seeds())
        for seed in sorted(set().union(*due.values())):
            subject = row.make(bench, seed)
            for i in (i for i in due if seed in due[i]):
                cards[i][-1] = _with_seed(cards[i][-1], jobs[i], subject, seed)
                write_card(cards[i][-1], folder)
    return list(cards.values())


def _card(job: Job, row: Row, folder: Path) -> Card:
    """With the scores of the seeds that have been measured already."""
    card = Card(
        protocol=job.protocol,
        version=job.version,
        settings=job.settings,
        data=job.bench.facts(),
        **row.about,
        scores={},
        made={},
    )
    path = folder / FOLDER / card.name()
    return read_card(path) if path.exists() else card


def _with_seed(card: Card, job: Job, subject: Subject, seed: int) -> Card:
    start = time.monotonic()
    scores = dict(job.measure(subject, seed))
    seconds = card.made.get("seconds", 0.0) + time.monotonic() - start
    made = origin() | {"seconds": round(seconds, 2)}
    return card.with_scores(seed, scores)._replace(made=made)
