"""Evaluates a checkpoint by the protocols asked for: a card each, and tables of them."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from invariance_propagation import devices, settings
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset
from invariance_propagation.errors import UserError, printable
from invariance_propagation.evaluation.bench import (
    PIXELS,
    RANDOM,
    Bench,
    Subject,
    make_bench,
    make_subject,
    pixels,
    untrained,
    view_of,
)
from invariance_propagation.evaluation.cards import (
    FOLDER,
    Card,
    read_card,
    table,
    write_card,
)
from invariance_propagation.evaluation.meaning import all_alike
from invariance_propagation.evaluation.protocols.jobs import (
    PROTOCOLS,
    Job,
    Request,
    usual,
)
from invariance_propagation.evaluation.published import published
from invariance_propagation.files.paths import check_folder, local, writing
from invariance_propagation.parallel import AXIS
from invariance_propagation.store.provenance import origin
from invariance_propagation.store.reading import workdir_of
from invariance_propagation.store.restore import (
    Backbone,
    Restored,
    backbone_of,
    restore_backbone,
    restore_encoder,
)
from invariance_propagation.store.weights import input_of, is_weights

# Images that a pass looks at at once, at least; what devices must divide.
BATCH_SIZE = 256
# Protocols that have data of their own.
ON_THEIR_OWN = {"voc07_svm", "places", "transfer"}
# The section `data` of a set that is named here, where a key is not set.
DEFAULTS = {
    "name": "",
    "folder": "",
    "split": "",
    "num_train": 0,
    "classes": False,
    "held_out": 0.0,
}


def evaluate(
    *,
    checkpoint: str,
    protocols: str,
    output: str,
    num_seeds: int,
    parallel: str,
    num_devices: int | None,
    num_threads: int,
    data: Mapping[str, Any],
    view: Mapping[str, Any],
    knn: Mapping[str, Any],
    linear: Mapping[str, Any],
    semi: Mapping[str, Any],
    finetune: Mapping[str, Any],
    other: Mapping[str, Any],
) -> list[Card]:
    """Measures a checkpoint, a random encoder and raw pixels; prints tables.

    Arguments are the keys of configs/evaluate.py, which says what they mean.

    Returns:
      The cards. Each is written when it is known, seed by seed, and what is on a card
      already is not measured again.

    Raises:
      UserError: bad input.
      TrainingError: a checkpoint that cannot be read, or a loss that is not finite.
    """
    names = None if protocols == "auto" else _names(protocols)
    if not checkpoint:
        raise UserError("--config.checkpoint is missing: a run's workdir, or weights")
    if num_seeds < 1:
        raise UserError(f"num_seeds={num_seeds}: set it to 1 or above")
    local(checkpoint, key="checkpoint")
    for key, value in (("data.folder", data["folder"] or ""), *_places(other)):
        local(value, key=key)
    folder = _folder(checkpoint, output)
    if output or folder.is_dir():  # else there is no run, which is said below
        check_folder(folder / FOLDER, key="--config.output")
    devices.one_cpu_device_per_core(BATCH_SIZE)
    run = None if is_weights(checkpoint) else restore_encoder(checkpoint)
    encoder = restore_backbone(checkpoint) if run is None else backbone_of(run)
    given = input_of(checkpoint) if run is None else run.config["augment"]
    view = view_of(checkpoint, encoder.channels, view, given)
    data = _data_of(run, data)
    if not data["name"] and (names is None or not ON_THEIR_OWN.issuperset(names)):
        raise UserError(f"data.name is missing: {checkpoint} does not say which")
    runner = devices.make_runner(parallel, num_devices)

    def load(**changes: Any) -> Dataset:
        section = {"data": data | changes}
        seed = 0 if run is None else run.config["seed"]  # of a sample, data.num_train
        return settings.call(sources.load, "data", section, size=view.size, seed=seed)

    def bench_of(dataset: Dataset) -> Bench:
        return make_bench(runner, dataset, view, num_threads)

    # Protocols that share a bench share the features of its images.
    @functools.cache
    def bench() -> Bench:
        dataset = load()
        for note in dataset.notes:
            print(note)
        return bench_of(dataset)

    request = Request(
        load=load,
        bench=bench,
        bench_of=bench_of,
        view=view,
        data=data,
        knn=knn,
        linear=linear,
        semi=semi,
        finetune=finetune,
        other=other,
        folder=folder,
    )
    rows, cards = _rows(checkpoint, encoder, run), []
    for jobs in _groups(names or usual(bench()), request):
        for found in _measure(jobs, rows, num_seeds, folder):
            cards += found
            lines = table(found, published(found)).splitlines()
            print("", *map(printable, lines), sep="\n", flush=True)
    print(f"\ncards: {printable(str(folder / FOLDER))}")
    return cards


def _data_of(run: Restored | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data`: of the run's own set if no other is named."""
    if run is None or data["name"]:
        return settings.override(DEFAULTS, data)
    # Another place or part of the same set; '' names no other.
    stored = settings.override(run.config["data"], {**data, "name": None})
    sources.check_stored(stored["name"], stored["folder"])
    return stored


def _groups(names: list[str], request: Request) -> Iterator[list[Job]]:
    """What can be measured together; what has data of its own last, set by set.

    All that is asked for on the same data is known, and checked, before any of it is
    measured.
    """
    shared = [name for name in names if name not in ON_THEIR_OWN]
    together = [
        job for name in shared for jobs in PROTOCOLS[name](request) for job in jobs
    ]
    if together:
        yield together
    for name in names:
        if name in ON_THEIR_OWN:
            yield from PROTOCOLS[name](request)


def _places(other: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each key of `other` that may name a folder, with its value."""
    for name in ("tfds_folder", "places"):
        yield f"other.{name}", other[name]


def _names(protocols: str) -> list[str]:
    names = [name.strip() for name in protocols.split(",")]
    for name in names:
        if name not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise UserError(f"protocols: {name!r} is none of {known}")
    return names


def _folder(checkpoint: str, output: str) -> Path:
    if output:
        return local(output, key="output")
    if is_weights(checkpoint):
        raise UserError(
            f"--config.output is missing: {checkpoint} is of no run, so name a folder "
            "for the cards"
        )
    return workdir_of(checkpoint)


class Row(NamedTuple):
    """A row of each table: what a card says of it, its seeds, and how it is made."""

    about: dict[str, Any]
    by_chance: bool
    make: Callable[[Bench, int], Subject]


def _rows(
    checkpoint: str, encoder: Backbone, run: Restored | None
) -> tuple[Row, Row, Row]:
    """The encoder, the same network untrained, and raw pixels."""
    # Fine-tuning normalises by the whole batch, which may be padded for the devices.
    module = encoder.module.clone(norm_axis_name=AXIS, norm_group=0)
    network = {
        "depth": module.depth,
        "stem": module.stem,
        "width": module.width,
        "channels": encoder.channels,
    }
    name, weights = (
        local(checkpoint, key="checkpoint").name,
        {"digest": encoder.digest()},
    )
    if run is not None:
        name, weights["step"] = f"step {run.step}", run.step
    weights["path"] = checkpoint

    def trained(bench: Bench, seed: int) -> Subject:
        del seed
        parts = encoder.params, encoder.batch_stats
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
                with writing(folder / FOLDER / cards[i][-1].name()):
                    write_card(cards[i][-1], folder)
    return list(cards.values())


def _card(job: Job, row: Row, folder: Path) -> Card:
    """With the scores of the seeds that have been measured already."""
    card = Card(
        protocol=job.protocol,
        version=job.version,
        settings=job.settings,
        data=job.bench.facts,
        **row.about,
        scores={},
        made={},
    )
    path = folder / FOLDER / card.name()
    return read_card(path) if path.exists() else card


def _with_seed(card: Card, job: Job, subject: Subject, seed: int) -> Card:
    start = time.monotonic()
    scores = dict(job.measure(subject, seed))
    own = origin(job.bench.runner.num_devices)
    own["seconds"] = round(time.monotonic() - start, 2)
    if all_alike(subject.queries()):
        own["remarks"] = ["all images of the test have the same features"]
    made = card.made | {str(seed): own}
    return card.with_scores(seed, scores)._replace(made=made)
