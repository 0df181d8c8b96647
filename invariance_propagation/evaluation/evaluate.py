"""Evaluates a checkpoint by the chosen protocols: writes cards and prints tables."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from invariance_propagation import devices, settings
from invariance_propagation.data import sources
from invariance_propagation.errors import UserError, printable
from invariance_propagation.evaluation.bench import Bench, view_of
from invariance_propagation.evaluation.cards import (
    FOLDER,
    Card,
    read_card,
    table,
    write_card,
)
from invariance_propagation.evaluation.meaning import all_alike
from invariance_propagation.evaluation.protocols import PROTOCOLS, find_protocol
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_request,
)
from invariance_propagation.evaluation.published import published
from invariance_propagation.evaluation.subjects import PIXELS, Row, Subject, rows_of
from invariance_propagation.files.paths import check_folder, local, writing
from invariance_propagation.phases import phase
from invariance_propagation.store.facts import images_of
from invariance_propagation.store.provenance import origin
from invariance_propagation.store.reading import Source, find_source
from invariance_propagation.store.restore import Restored, restore

# The fewest images in a batch, for choosing how many devices a CPU is split into.
BATCH_SIZE = 256
# Defaults of the section `data` when the config names its own data set.
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
    **sections: Mapping[str, Any],
) -> list[Card]:
    """Measures a checkpoint, a random encoder and raw pixels; prints tables.

    Arguments are the keys of configs/evaluate.py, which says what they mean; `sections`
    are those that protocols read.

    Returns:
      The cards. Each is written seed by seed, as soon as its scores are known. Scores
      that a card has already are not measured again.

    Raises:
      UserError: bad input.
      TrainingError: a checkpoint cannot be read, or a loss is not finite.
    """
    names = None if protocols == "auto" else [x.strip() for x in protocols.split(",")]
    chosen = _find(names or [], sections)
    if not checkpoint:
        raise UserError("--config.checkpoint is missing: a run's workdir, or weights")
    if num_seeds < 1:
        raise UserError(f"num_seeds={num_seeds}: set it to 1 or above")
    source = find_source(checkpoint)
    _check_places(data, sections)
    folder = _folder(source, output)
    devices.one_cpu_device_per_core(BATCH_SIZE)
    with phase(f"reading {printable(checkpoint)}"):
        trained = restore(source)
    run = trained.run
    request = make_request(
        {} if run is None else run.config,
        trained_on=None if run is None else images_of(run.facts, "sample"),
        view=view_of(checkpoint, trained.backbone.channels, view, trained.input),
        data=_data_of(run, data),
        sections=sections,
        folder=folder,
        runner=devices.make_runner(parallel, num_devices),
        num_threads=num_threads,
    )
    own_data = [protocol.own_data for protocol in chosen.values()]
    if not request.data["name"] and not (own_data and all(own_data)):
        raise UserError(f"data.name is missing: {checkpoint} does not say which")
    rows, cards = rows_of(source, trained), []
    chosen = chosen or _find(_usual(request.bench()), sections)
    for jobs in _groups(chosen, request):
        for job, found in zip(
            jobs, _measure(jobs, rows, num_seeds, folder), strict=True
        ):
            cards += found
            _print_table(found, job.note)
    print(f"\ncards: {printable(str(folder / FOLDER))}")
    return cards


def _find(names: Iterable[str], sections: Mapping[str, Mapping]) -> dict[str, Protocol]:
    """Finds protocols by name; raises UserError for one that is not there."""
    protocols = {name: find_protocol(name) for name in names}
    for name, protocol in protocols.items():
        for section in protocol.sections:
            if section not in sections:
                raise UserError(
                    f"config section {section} is missing, which the protocol {name} "
                    "reads: start from configs/evaluate.py"
                )
    return protocols


def _usual(bench: Bench) -> list[str]:
    """Returns what 'auto' stands for on this bench."""
    return [name for name in PROTOCOLS if find_protocol(name).usual(bench)]


def _check_places(data: Mapping[str, Any], sections: Mapping[str, Mapping]) -> None:
    """Checks that what may name a folder of images is a path of this machine."""
    local(data["folder"] or "", key="data.folder")
    for name in ("tfds_folder", "places"):
        local(sections.get("other", {}).get(name, ""), key=f"other.{name}")


def _folder(source: Source, output: str) -> Path:
    """Returns the folder in which cards are written, and checks that it can be."""
    folder = local(output, key="output") if output else source.workdir
    if folder is None:
        raise UserError(
            f"--config.output is missing: {source.name} belongs to no run, so name a "
            "folder for the cards"
        )
    # Without such a folder there is no run, which restoring it will say.
    if output or folder.is_dir():
        check_folder(folder / FOLDER, key="--config.output")
    return folder


def _data_of(run: Restored | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section `data`, or the run's where no other set is named."""
    if run is None or data["name"]:
        return settings.override(DEFAULTS, data)
    # Another place or part of the same set; the name '' is no other set.
    stored = settings.override(run.config["data"], {**data, "name": None})
    sources.check_stored(stored["name"], stored["folder"])
    return stored


def _groups(protocols: Mapping[str, Protocol], request: Request) -> Iterator[list[Job]]:
    """Yields jobs that share a bench; those with data of their own come last.

    All jobs on the section `data` are made, and so checked, before any is measured.
    """
    shared = [x for x in protocols.values() if not x.own_data]
    together = [
        job for protocol in shared for jobs in protocol.jobs(request) for job in jobs
    ]
    if together:
        yield together
    for protocol in protocols.values():
        if protocol.own_data:
            yield from protocol.jobs(request)


def _measure(
    jobs: list[Job], rows: Iterable[Row], num_seeds: int, folder: Path
) -> list[list[Card]]:
    """Returns the cards of all rows, for each of the jobs, which share a bench.

    A subject is made once for all jobs and forgotten before the next one, because its
    features may take most of the memory.
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
                cards[i][-1] = measure_seed(cards[i][-1], jobs[i], subject, seed)
                with writing(folder / FOLDER / cards[i][-1].name()):
                    write_card(cards[i][-1], folder)
    return list(cards.values())


def _card(job: Job, row: Row, folder: Path) -> Card:
    """Returns the card of a job and a row, with the scores that are known already."""
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


def measure_seed(card: Card, job: Job, subject: Subject, seed: int) -> Card:
    """Measures a subject with one more seed and adds the scores to its card."""
    start = time.monotonic()
    with phase(f"{subject.name}: {job.protocol}, seed {seed}"):
        scores = dict(job.measure(subject, seed))
    made: dict[str, Any] = origin(job.bench.runner.num_devices)
    made["seconds"] = round(time.monotonic() - start, 2)
    if all_alike(subject.queries()):
        made["remarks"] = ["all held-out images have the same features"]
    card = card._replace(made=card.made | {str(seed): made})
    return card.with_scores(seed, scores)


def _print_table(cards: list[Card], note: str) -> None:
    lines = table(cards, published(cards)).splitlines()
    lines += [f"  note: {note}"] * bool(note)
    print("", *map(printable, lines), sep="\n", flush=True)
