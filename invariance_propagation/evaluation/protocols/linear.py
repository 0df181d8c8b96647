"""The protocol `linear`: a linear probe, which classifies frozen features."""

from collections.abc import Iterator

from invariance_propagation.evaluation.classifier.training import probe
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
)
from invariance_propagation.evaluation.recipes import Linear, changed, recipe_for

VERSION = 2
IMAGENET = Linear(
    epochs=120,  # [code]
    batch_size=256,  # [code]
    learning_rate=1.0,  # [code]
    milestones=(50, 80, 100),  # [code]
    decay=0.1,  # [code]
    crop_scale=(0.08, 1.0),  # [code]
    flip=0.5,  # [code]
    scaled=True,  # [code]
    std=0.01,  # [code]
)
SMALL = Linear(
    epochs=100,  # [code]
    batch_size=256,  # [code]
    learning_rate=1.0,  # [ours]
    milestones=(40, 60, 80),  # [code]
    decay=0.2,  # [code]
    crop_scale=(),  # [code]
    flip=0.5,  # [code]
    scaled=False,  # [code]
    std=0.01,  # [ours]
)


def options_for(name: str, request: Request) -> Linear:
    """Returns the options for the data set `name`, with the user's changes."""
    options = recipe_for(name, request.view.size, imagenet=IMAGENET, small=SMALL)
    return changed(options, request.sections["linear"], "linear")


def jobs(request: Request) -> Iterator[list[Job]]:
    """Trains a classifier on the bench of the section `data`."""
    bench = request.bench()
    options = options_for(request.data["name"], request)
    settings = make_settings(bench, options)
    yield [Job("linear", VERSION, settings, bench, probe(bench, options))]


LINEAR = Protocol(
    jobs,
    sections=("linear",),
    usual=lambda bench: True,
    published={"imagenet2012": (IMAGENET, {"top1": 0.713})},
)
