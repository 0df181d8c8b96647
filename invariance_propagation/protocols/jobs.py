"""The protocols by name: each names its data, binds its numbers, and says so."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from invariance_propagation import auto
from invariance_propagation.data.dataset import Split
from invariance_propagation.evaluation import svm
from invariance_propagation.evaluation.recipes import Recipe, changed, recipe_for
from invariance_propagation.protocols import measures
from invariance_propagation.protocols.bench import Bench
from invariance_propagation.protocols.measures import Measure

# What TFDS calls the published lists of ImageNet's labels.
IMAGENET_SUBSETS = {0.01: "imagenet_1pct", 0.1: "imagenet_10pct"}


class Request(NamedTuple):
    """What was asked for.

    Attributes:
      bench: (**changes to the section `data`) -> a bench; without changes the one of
        the config.
      data: the section `data`.
      knn, linear, semi, finetune, places: these sections.
      folder: where lists of labels are kept.
    """

    bench: Callable[..., Bench]
    data: Mapping[str, Any]
    knn: Mapping[str, Any]
    linear: Mapping[str, Any]
    semi: Mapping[str, Any]
    finetune: Mapping[str, Any]
    places: Mapping[str, Any]
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


def knn(request: Request) -> Iterator[Job]:
    """Weighted kNN of the features."""
    bench = request.bench()
    num_neighbors = request.knn["num_neighbors"]
    if num_neighbors is None:
        num_neighbors = _recipe(request, bench).num_neighbors
    options = {
        "num_neighbors": auto.votes(
            num_neighbors,
            num_examples=len(bench.dataset.train.labels),
            num_classes=bench.num_classes,
        ),
        "temperature": request.knn["temperature"],
    }
    measure = measures.knn(bench, **options)
    yield Job("knn", 1, _settings(bench, options), bench, measure, by_chance=False)


def linear(request: Request) -> Iterator[Job]:
    """A linear classifier on frozen features."""
    bench = request.bench()
    options = changed(_recipe(request, bench).linear, request.linear, "linear")
    measure = measures.linear(bench, options)
    yield Job("linear", 1, _settings(bench, options._asdict()), bench, measure)


def semi(request: Request) -> Iterator[Job]:
    """Fine-tuning on 1 % and 10 % of the labels."""
    bench = request.bench()
    options = changed(_recipe(request, bench).semi, request.semi, "semi")
    subset = measures.few_labels(bench, request.folder)
    if request.data["name"] == "imagenet":

        def subset(share: float, seed: int) -> Split:
            name = IMAGENET_SUBSETS[share]
            return request.bench(name=name, split="", num_train=0).dataset.train

    measure = measures.semi(bench, options, subset)
    settings = _settings(bench, options._asdict())
    yield Job("semi", 1, settings, bench, measure, of_pixels=False)


def svm_of_classes(request: Request) -> Iterator[Job]:
    """One linear SVM per class, by all labels and by a few."""
    bench = request.bench()
    measure = measures.svm_of_classes(bench)
    yield Job("svm", 1, _settings(bench, SVM_OPTIONS), bench, measure, by_chance=False)


SVM_OPTIONS = {
    "costs": svm.COSTS,
    "folds": svm.FOLDS,
    "low_shot_cost": svm.LOW_SHOT_COST,
    "low_shot": svm.LOW_SHOT,
    "draws": svm.DRAWS,
}
PROTOCOLS = {"knn": knn, "linear": linear, "semi": semi, "svm": svm_of_classes}


def _recipe(request: Request, bench: Bench) -> Recipe:
    return recipe_for(request.data["name"], bench.view.size)


def _settings(bench: Bench, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"view": bench.view._asdict(), "options": dict(options)}
