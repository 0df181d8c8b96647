"""The protocol `transfer`: a linear probe, and fine-tuning, on small data sets."""

from collections.abc import Iterator

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.classifier.head import class_accuracies
from invariance_propagation.evaluation.classifier.training import finetune, probe
from invariance_propagation.evaluation.protocols import linear
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
    tfds_bench,
)
from invariance_propagation.evaluation.recipes import Finetune, changed, recipe_for

VERSION = 2
# TFDS's name, and what to learn from; the test is the set's own.
SETS = {
    "cifar10": ("cifar10", "train"),
    "cifar100": ("cifar100", "train"),
    "caltech101": ("caltech101", "train"),
    "cub": ("caltech_birds2011", "train"),
    "pets": ("oxford_iiit_pet", "train"),
    "flowers": ("oxford_flowers102", "train+validation"),
    "cars": ("cars196", "train"),
    "dtd": ("dtd", "train+validation"),
}
# The head's rate is 50 times the backbone's in the first epoch, then 5 times. The
# authors' code sets an epoch's rates after training it: what it says of epochs 50 and
# 70 takes effect one epoch later.
IMAGENET = Finetune(
    epochs=81,  # [code]
    batch_size=128,  # [code]
    learning_rate=0.001,  # [code]
    head_rate=0.05,  # [code]
    milestones=(51, 71),  # [code]
    head_milestones=(1, 51, 71),  # [code]
    decay=0.1,  # [code]
    weight_decay=1e-6,  # [code]
    crop_scale=(0.2, 1.0),  # [code]: for Cars
    flip=0.5,  # [code]
    std=0.01,  # [ours]
)
SMALL = IMAGENET._replace(crop_scale=())  # [ours]


def jobs(request: Request) -> Iterator[list[Job]]:
    """Yields, for each data set, a linear probe and fine-tuning."""
    listed = request.sections["other"]["transfer_sets"]
    names = [name.strip() for name in listed.split(",")]
    for name in names:
        if name not in SETS:
            known = ", ".join(SETS)
            raise UserError(f"--config.other.transfer_sets={name}: choose from {known}")
    for name in names:
        yield _jobs_on(name, request)


def _jobs_on(name: str, request: Request) -> list[Job]:
    bench = tfds_bench(request, *SETS[name])
    train = bench.dataset.train
    scores = {"scores_of": class_accuracies}
    options = linear.options_for(name, request)
    probing = Job(
        "transfer_linear",
        VERSION,
        make_settings(bench, options),
        bench,
        probe(bench, options, **scores),
    )
    options = recipe_for(name, request.view.size, imagenet=IMAGENET, small=SMALL)
    options = changed(options, request.sections["finetune"], "finetune")
    tuning = Job(
        "transfer_finetune",
        VERSION,
        make_settings(bench, options),
        bench,
        finetune(bench, options, lambda seed: train, **scores),
        of_pixels=False,
    )
    return [probing, tuning]


TRANSFER = Protocol(jobs, sections=("linear", "finetune", "other"), own_data=True)
