"""The protocols `semi` and `semi_1pct`: fine-tuning on few of the labels."""

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from invariance_propagation.data.dataset import Split
from invariance_propagation.evaluation.bench import Bench
from invariance_propagation.evaluation.classifier.training import finetune
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
)
from invariance_propagation.evaluation.protocols.subsets import (
    draw_share,
    write_list,
)
from invariance_propagation.evaluation.recipes import Finetune, changed, recipe_for
from invariance_propagation.evaluation.subjects import Measure, Scores, Subject

VERSION = 2
SHARES = (0.01, 0.1)  # of the labels
# TFDS's names of the published lists of ImageNet's labels.
IMAGENET_SUBSETS = {0.01: "imagenet_1pct", 0.1: "imagenet_10pct"}
Subset = Callable[[float, int], Split]  # (share, seed) -> images with their labels

# The authors' code sets an epoch's rates after training it: what it says of epochs 15,
# 20 and 25 takes effect one epoch later.
IMAGENET = Finetune(
    epochs=30,  # [code]
    batch_size=128,  # [code]
    learning_rate=0.0012,  # [code]
    head_rate=0.06,  # [code]
    milestones=(16, 21, 26),  # [code]
    head_milestones=(),  # [code]
    decay=0.1,  # [code]
    weight_decay=1e-5,  # [code]
    crop_scale=(0.08, 1.0),  # [code]
    flip=0.5,  # [code]
    std=0.01,  # [ours]
)
# A few hundred images make few steps: more epochs, larger rates.
SMALL = IMAGENET._replace(
    epochs=50,  # [ours]
    batch_size=64,  # [ours]
    learning_rate=0.01,  # [ours]
    head_rate=0.1,  # [ours]
    milestones=(25, 38, 45),  # [ours]
    crop_scale=(),  # [ours]
)


def few_labels(bench: Bench, folder: Path) -> Subset:
    """Returns a function that draws labels, and keeps lists of them in `folder`."""
    train = bench.dataset.train

    @functools.cache
    def subset(share: float, seed: int) -> Split:
        rows = draw_share(train.labels, share, seed=seed)
        name = f"{bench.dataset.name}-{100 * share:g}pct-seed{seed}"
        write_list(rows, train.ids, folder, name)
        return train.take(rows)

    return subset


def published_labels(request: Request) -> Subset:
    """Returns a function that loads the published lists of ImageNet's labels."""

    @functools.cache
    def of_share(share: float) -> Split:
        return request.load(name=IMAGENET_SUBSETS[share]).train

    return lambda share, seed: of_share(share)


def semi(
    bench: Bench, options: Finetune, subset: Subset, shares: Sequence[float]
) -> Measure:
    """Makes a measure that fine-tunes a subject on each of these shares of labels."""
    measures = {
        share: finetune(bench, options, partial(subset, share)) for share in shares
    }

    def measure(subject: Subject, seed: int) -> Scores:
        for share, of_share in measures.items():
            for score, value in of_share(subject, seed):
                yield f"{score}, {share:.0%}", value

    return measure


def remarks_on_shares(labels: np.ndarray, shares: Sequence[float]) -> list[str]:
    """Says if several shares of the labels int [n] are the same images."""
    drawn = [draw_share(labels, share, seed=0) for share in shares]
    if len(shares) < 2 or any(len(rows) != len(drawn[0]) for rows in drawn):
        return []
    names = " and ".join(f"{share:.0%}" for share in shares)
    return [
        f"{names} of the labels are the same {len(drawn[0])} images here, because each "
        "class keeps at least one: their scores are the same too"
    ]


def _jobs(
    request: Request, *, protocol: str, num_shares: int | None
) -> Iterator[list[Job]]:
    """Fine-tunes on the first `num_shares` of `SHARES`; None: on all of them."""
    bench, data, shares = request.bench(), request.data, SHARES[:num_shares]
    options = recipe_for(
        data["name"], request.view.size, imagenet=IMAGENET, small=SMALL
    )
    options = changed(options, request.sections["semi"], "semi")
    if data["name"] == "imagenet" and not data["split"] and not data["num_train"]:
        lists, remarks = "as published, imagenet2012_subset", []
        subset = published_labels(request)
    else:
        lists = "drawn by the seed"
        remarks = remarks_on_shares(bench.dataset.train.labels, shares)
        subset = few_labels(bench, request.folder)
    settings = make_settings(bench, options, remarks) | {"lists": lists}
    measure = semi(bench, options, subset, shares)
    yield [Job(protocol, VERSION, settings, bench, measure, of_pixels=False)]


# The paper's score of ResNet-50, from its abstract.
PUBLISHED = {"imagenet2012": (IMAGENET, {"top5, 1%": 0.782})}
SEMI = Protocol(
    partial(_jobs, protocol="semi", num_shares=None),
    sections=("semi",),
    usual=lambda bench: True,
    published=PUBLISHED,
)
# The smallest share only, which takes a tenth of the time.
SEMI_1PCT = Protocol(
    partial(_jobs, protocol="semi_1pct", num_shares=1),
    sections=("semi",),
    published=PUBLISHED,
)
