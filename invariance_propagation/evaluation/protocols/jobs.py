"""The protocols by name: each names its data, binds its numbers, and says so."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources.folder import two_folders
from invariance_propagation.data.sources.tfds.records import TFDS
from invariance_propagation.data.sources.voc import voc2007
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.bench import Bench, View
from invariance_propagation.evaluation.meaning import remarks_on_few, remarks_on_votes
from invariance_propagation.evaluation.protocols import measures, svm
from invariance_propagation.evaluation.protocols.classifier import class_accuracies
from invariance_propagation.evaluation.protocols.knn import (
    check_neighbors,
    neighbors_for,
)
from invariance_propagation.evaluation.protocols.measures import Measure
from invariance_propagation.evaluation.protocols.training import MOMENTUM
from invariance_propagation.evaluation.recipes import (
    Finetune,
    Linear,
    Recipe,
    changed,
    recipe_for,
)

# What TFDS calls the published lists of ImageNet's labels.
IMAGENET_SUBSETS = {0.01: "imagenet_1pct", 0.1: "imagenet_10pct"}


class Request(NamedTuple):
    """What was asked for.

    Attributes:
      load: (**changes to the section `data`) -> a data set.
      bench: () -> that of the section as it is.
      bench_of: a data set -> a bench.
      view: of the images.
      data: the section `data`.
      knn, linear, semi, finetune, other: these sections.
      folder: where lists of labels are kept.
    """

    load: Callable[..., Dataset]
    bench: Callable[[], Bench]
    bench_of: Callable[[Dataset], Bench]
    view: View
    data: Mapping[str, Any]
    knn: Mapping[str, Any]
    linear: Mapping[str, Any]
    semi: Mapping[str, Any]
    finetune: Mapping[str, Any]
    other: Mapping[str, Any]
    folder: Path


class Job(NamedTuple):
    """One protocol on one bench.

    Attributes:
      protocol, version, settings: as on a card.
      bench: what it measures on.
      measure: (subject, seed) -> names and values.
      of_pixels: whether raw pixels are measured too.
      by_chance: whether another seed gives another number for the same weights.
    """

    protocol: str
    version: int
    settings: dict[str, Any]
    bench: Bench
    measure: Measure
    of_pixels: bool = True
    by_chance: bool = True


Jobs = Iterator[list[Job]]  # in lists that share a bench


def knn(request: Request) -> Jobs:
    """Weighted kNN of the features."""
    bench = request.bench()
    num_neighbors = request.knn["num_neighbors"]
    if num_neighbors is None:
        num_neighbors = _recipe(request, bench).num_neighbors
    options = {
        "num_neighbors": neighbors_for(
            num_neighbors,
            num_examples=len(bench.dataset.train.labels),
            num_classes=bench.num_classes,
        ),
        "temperature": request.knn["temperature"],
    }
    check_neighbors(options["num_neighbors"], len(bench.dataset.train.labels))
    if not options["temperature"] > 0:
        raise UserError(f"knn.temperature={options['temperature']}: set it above 0")
    measure = measures.knn(bench, **options)
    votes = remarks_on_votes(options["num_neighbors"], bench.dataset.train.labels)
    settings = _settings(bench, options, votes)
    yield [Job("knn", 1, settings, bench, measure, by_chance=False)]


def linear(request: Request) -> Jobs:
    """A linear classifier on frozen features."""
    bench = request.bench()
    options = changed(_recipe(request, bench).linear, request.linear, "linear")
    measure = measures.linear(bench, options)
    yield [Job("linear", 2, _settings(bench, options), bench, measure)]


def semi(request: Request) -> Jobs:
    """Fine-tuning on 1 % and 10 % of the labels."""
    yield [_semi(request, "semi", measures.SHARES)]


def semi_1pct(request: Request) -> Jobs:
    """The first of them alone, which takes a tenth of the time."""
    yield [_semi(request, "semi_1pct", measures.SHARES[:1])]


def _semi(request: Request, protocol: str, shares: Sequence[float]) -> Job:
    bench = request.bench()
    options = changed(_recipe(request, bench).semi, request.semi, "semi")
    subset, lists = measures.few_labels(bench, request.folder), "drawn by the seed"
    data = request.data
    if data["name"] == "imagenet" and not data["split"] and not data["num_train"]:
        lists = "as published, imagenet2012_subset"

        @functools.cache
        def of_share(share: float) -> Split:
            return request.load(name=IMAGENET_SUBSETS[share]).train

        def subset(share: float, seed: int) -> Split:
            del seed
            return of_share(share)

    measure = measures.semi(bench, options, subset, shares)
    settings = _settings(bench, options) | {"lists": lists}
    return Job(protocol, 2, settings, bench, measure, of_pixels=False)


def svm_of_classes(request: Request) -> Jobs:
    """One linear SVM per class, by all labels and by a few."""
    bench = request.bench()
    count = len(bench.dataset.train.labels)
    if count > svm.MOST_IMAGES:
        raise UserError(
            f"an SVM per class of {count:,} images would take days: leave svm out of "
            f"--config.protocols, or set data.num_train to at most {svm.MOST_IMAGES:,}"
        )
    measure = measures.svm_of_classes(bench)
    targets = svm.one_hot(bench.dataset.train.labels, bench.num_classes)
    few = remarks_on_few(targets, max(svm.LOW_SHOT))
    settings = _settings(bench, SVM_OPTIONS, few)
    yield [Job("svm", 2, settings, bench, measure, by_chance=False)]


def voc07_svm(request: Request) -> Jobs:
    """The same on PASCAL VOC 2007, where an image may be of several classes."""
    dataset = voc2007(request.other["tfds_folder"], size=request.view.size)
    bench = request.bench_of(dataset)
    measure = measures.svm_of_targets(dataset.train.labels, dataset.held_out.labels)
    few = remarks_on_few(dataset.train.labels, max(svm.LOW_SHOT))
    settings = _settings(bench, SVM_OPTIONS, few)
    yield [Job("voc07_svm", 3, settings, bench, measure, by_chance=False)]


def places(request: Request) -> Jobs:
    """A linear classifier of scenes: Places365 by TFDS, or the folder of Places205."""
    source = request.other["places"]
    if source == PLACES365:
        bench = _tfds_bench(request, "places365_small", "train")
    else:
        bench = request.bench_of(two_folders(source, size=request.view.size))
    recipe = recipe_for(PLACES365, request.view.size)
    options = changed(recipe.linear, request.linear, "linear")
    measure = measures.linear(bench, options)
    yield [Job("places", 2, _settings(bench, options), bench, measure)]


def transfer(request: Request) -> Jobs:
    """A linear classifier, and fine-tuning, on each of the small sets."""
    names = [name.strip() for name in request.other["transfer_sets"].split(",")]
    for name in names:
        if name not in TRANSFER:
            known = ", ".join(TRANSFER)
            raise UserError(f"other.transfer_sets: {name!r} is none of {known}")
    for name in names:
        bench = _tfds_bench(request, *TRANSFER[name])
        recipe, train = recipe_for(name, request.view.size), bench.dataset.train
        own = {"scores_of": class_accuracies}
        options = changed(recipe.linear, request.linear, "linear")
        measure = measures.linear(bench, options, **own)
        probe = Job("transfer_linear", 2, _settings(bench, options), bench, measure)
        options = changed(recipe.finetune, request.finetune, "finetune")
        measure = measures.finetune(bench, options, lambda seed, x=train: x, **own)
        settings, kind = _settings(bench, options), "transfer_finetune"
        yield [probe, Job(kind, 2, settings, bench, measure, of_pixels=False)]


SVM_OPTIONS = {
    "features": "average pool",
    "costs": svm.COSTS,
    "folds": svm.FOLDS,
    "max_iterations": svm.MAX_ITERATIONS,
    "low_shot_cost": svm.LOW_SHOT_COST,
    "low_shot": svm.LOW_SHOT,
    "draws": svm.DRAWS,
    "average_precision": "interpolated",
}
PLACES365 = "places365"
# Name in TFDS, and what to learn from; the test is the set's own.
TRANSFER = {
    "cifar10": ("cifar10", "train"),
    "cifar100": ("cifar100", "train"),
    "caltech101": ("caltech101", "train"),
    "cub": ("caltech_birds2011", "train"),
    "pets": ("oxford_iiit_pet", "train"),
    "flowers": ("oxford_flowers102", "train+validation"),
    "cars": ("cars196", "train"),
    "dtd": ("dtd", "train+validation"),
}
PROTOCOLS = {
    "knn": knn,
    "linear": linear,
    "semi": semi,
    "semi_1pct": semi_1pct,
    "svm": svm_of_classes,
    "voc07_svm": voc07_svm,
    "places": places,
    "transfer": transfer,
}


def usual(bench: Bench) -> list[str]:
    """What 'auto' stands for: all that needs nothing but this data, and ends."""
    names = ["knn", "linear", "semi"]
    few = len(bench.dataset.train.labels) <= svm.MOST_IMAGES
    return [*names, "svm"] if few else names


def _tfds_bench(request: Request, name: str, split: str) -> Bench:
    dataset = request.load(
        name=f"{TFDS}{name}",
        folder=request.other["tfds_folder"],
        split=split,
        num_train=0,
        classes=False,
        held_out=0.0,
    )
    return request.bench_of(dataset)


def _recipe(request: Request, bench: Bench) -> Recipe:
    return recipe_for(request.data["name"], bench.view.size)


def _settings(
    bench: Bench,
    options: Linear | Finetune | Mapping,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    own = dict(options) if isinstance(options, Mapping) else options._asdict()
    settings = {"view": bench.view._asdict() | {"crop": bench.crop}, "options": own}
    if bench.remarks or remarks:
        settings["remarks"] = [*bench.remarks, *remarks]
    if not isinstance(options, Mapping):
        settings["optimizer"] = f"SGD, momentum {MOMENTUM}"
    return settings
