"""Defines what a protocol is: from a request to jobs, each a measure on a bench."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from invariance_propagation import settings
from invariance_propagation.data import sources
from invariance_propagation.data.changes import Known
from invariance_propagation.data.dataset import Dataset
from invariance_propagation.data.sources.tfds.records import FOLDER_KEY, TFDS
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.bench import Bench, View, make_bench
from invariance_propagation.evaluation.classifier.training import MOMENTUM
from invariance_propagation.evaluation.meaning import remarks_on_seen
from invariance_propagation.evaluation.recipes import Finetune, Linear
from invariance_propagation.evaluation.subjects import Measure
from invariance_propagation.phases import phase


class Request(NamedTuple):
    """Holds what the user asked for.

    Attributes:
      load: (**changes of the section `data`) -> a data set.
      bench: () -> the bench of the section `data` as it is, loaded once.
      bench_of: a data set -> its bench.
      view: what the encoder sees of an image.
      data: the section `data`.
      sections: the other sections of the config, by name.
      trained_with: the config of the run; empty for a file of weights.
      folder: where lists of labels are kept.
    """

    load: Callable[..., Dataset]
    bench: Callable[[], Bench]
    bench_of: Callable[[Dataset], Bench]
    view: View
    data: Mapping[str, Any]
    sections: Mapping[str, Mapping[str, Any]]
    trained_with: Mapping[str, Any]
    folder: Path


def make_request(
    trained_with: Mapping[str, Any],
    *,
    trained_on: Known | None,
    view: View,
    data: Mapping[str, Any],
    sections: Mapping[str, Mapping[str, Any]],
    folder: Path,
    runner: Runner,
    num_threads: int,
) -> Request:
    """Makes a request; see `Request`, and `Bench` for `runner` and `num_threads`.

    `trained_on` are the images of the run, as far as they are known.
    """

    def load(**changes: Any) -> Dataset:
        section = {"data": {**data, **changes}}
        seed = trained_with.get("seed", 0)  # decides the sample of data.num_train
        with phase(f"reading {section['data']['name']}"):
            return settings.call(
                sources.load, "data", section, size=view.size, seed=seed
            )

    def bench_of(dataset: Dataset) -> Bench:
        bench = make_bench(runner, dataset, view, num_threads)
        assert dataset.held_out is not None  # or there would be no bench
        seen = remarks_on_seen(trained_on, dataset.held_out)
        return bench._replace(remarks=[*bench.remarks, *seen])

    # Protocols that share a bench share the features of its images.
    @functools.cache
    def bench() -> Bench:
        dataset = load()
        for note in dataset.notes:
            print(note)
        return bench_of(dataset)

    return Request(
        load=load,
        bench=bench,
        bench_of=bench_of,
        view=view,
        data=data,
        sections=sections,
        trained_with=trained_with,
        folder=folder,
    )


class Job(NamedTuple):
    """Measures one thing on one bench.

    Attributes:
      protocol, version, settings: as on a card.
      bench: the images.
      measure: (subject, seed) -> names of scores and their values in [0, 1].
      of_pixels: whether raw pixels are measured too.
      by_chance: whether another seed gives another score for the same weights.
      note: a sentence to print below the table.
    """

    protocol: str
    version: int
    settings: dict[str, Any]
    bench: Bench
    measure: Measure
    of_pixels: bool = True
    by_chance: bool = True
    note: str = ""


def never(bench: Bench) -> bool:
    """Leaves a protocol out of 'auto'."""
    del bench
    return False


class Protocol(NamedTuple):
    """Describes a protocol, an entry of the table in `protocols`.

    Attributes:
      jobs: a request -> lists of jobs. The jobs of a list share a bench, and so the
        features of its images. All settings are checked before the first list, because
        nothing is measured until all protocols on the same data have yielded theirs.
      sections: names of the config sections that it reads.
      own_data: whether it brings its own data set instead of the section `data`.
      usual: whether 'auto' includes it on this bench.
      published: data set -> the options and the scores, in [0, 1], of the paper.
    """

    jobs: Callable[[Request], Iterator[list[Job]]]
    sections: tuple[str, ...] = ()
    own_data: bool = False
    usual: Callable[[Bench], bool] = never
    published: Mapping[str, tuple[NamedTuple, Mapping[str, float]]] = {}


def make_settings(
    bench: Bench,
    options: Linear | Finetune | Mapping[str, Any],
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes what a card says about how its scores were measured.

    Args:
      bench: the images.
      options: of a classifier that SGD trains, or of something else by name.
      remarks: sentences for the reader of the scores, besides those of the bench.
    """
    trained = not isinstance(options, Mapping)
    values = dict(options) if isinstance(options, Mapping) else options._asdict()
    made: dict[str, Any] = {
        "view": bench.view._asdict() | {"crop": bench.crop},
        "options": values,
    }
    if bench.remarks or remarks:
        made["remarks"] = [*bench.remarks, *remarks]
    if trained:
        made["optimizer"] = f"SGD, momentum {MOMENTUM}"
    return made


@contextlib.contextmanager
def other_folder_named() -> Iterator[None]:
    """Makes errors about the folder of TFDS name the key that these protocols read."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(FOLDER_KEY, "--config.other.tfds_folder")
        raise UserError(text) from error


def tfds_bench(request: Request, name: str, split: str) -> Bench:
    """Loads a data set of TFDS, to learn from `split` and test on its own test set."""
    with other_folder_named():
        dataset = request.load(
            name=f"{TFDS}{name}",
            folder=request.sections["other"]["tfds_folder"],
            split=split,
            num_train=0,
            classes=False,
            held_out=0.0,
        )
    return request.bench_of(dataset)
