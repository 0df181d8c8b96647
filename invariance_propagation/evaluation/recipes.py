"""The numbers of each protocol, by the kind of data: published where there are any.

`IMAGENET` is the released code (linear_classification.py, semi_supervised.py,
fine_tune.py of WangFeng18/InvariancePropagation), on the last features alone; all small
sets are fine-tuned with the crops that it has for Cars, and the head with the rate that
it has from the second epoch on. `SMALL` is its eval_linear.py, but for SVHN's colours,
which are not jittered here, and the std of the head's first weights, an earlier one of
its. Where it has nothing, the numbers are our own, set before any test and tuned on none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from invariance_propagation.errors import UserError
from invariance_propagation.options import check_crop_scale

SMALL_BELOW = 64  # pixels
# Mirrored, they are other signs or none.
NOT_MIRRORED = (
    "digits",
    "svhn",
    "svhn_cropped",
    "mnist",
    "kmnist",
    "emnist",
    "omniglot",
)
# Sets of the released code, of which K is 200.
RELEASED = ("imagenet", "imagenet2012", "cifar10", "cifar100", "svhn", "svhn_cropped")


class Linear(NamedTuple):
    """The section `linear`: a probe of frozen features.

    Attributes:
      epochs, batch_size: of the probe.
      learning_rate, milestones, decay: SGD's, with momentum 0.9; the rate is
        multiplied by `decay` at these epochs.
      crop_scale, flip: of the training images; () and 0.0 leave them as they are.
      scaled, std: of the head, see `classifier.Head`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    milestones: Sequence[int]
    decay: float
    crop_scale: Sequence[float]
    flip: float
    scaled: bool
    std: float


class Finetune(NamedTuple):
    """The sections `semi` and `finetune`: backbone and head learn.

    Attributes:
      epochs, batch_size: of it.
      learning_rate, head_rate: SGD's of backbone and head, with momentum 0.9.
      milestones, decay: as of `Linear`, of the backbone alone; the released code
        leaves the head's rate as it is.
      weight_decay: on all parameters.
      crop_scale, flip: of the training images.
      std: of the head's first weights.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    head_rate: float
    milestones: Sequence[int]
    decay: float
    weight_decay: float
    crop_scale: Sequence[float]
    flip: float
    std: float


class Recipe(NamedTuple):
    """All of them; `num_neighbors` is the K of kNN."""

    num_neighbors: int | str
    linear: Linear
    semi: Finetune
    finetune: Finetune


IMAGENET = Recipe(
    num_neighbors="auto",
    linear=Linear(
        epochs=120,
        batch_size=256,
        learning_rate=1.0,
        milestones=(50, 80, 100),
        decay=0.1,
        crop_scale=(0.08, 1.0),
        flip=0.5,
        scaled=True,
        std=0.01,
    ),
    semi=Finetune(
        epochs=30,
        batch_size=128,
        learning_rate=0.0012,
        head_rate=0.06,
        milestones=(15, 20, 25),
        decay=0.1,
        weight_decay=1e-5,
        crop_scale=(0.08, 1.0),
        flip=0.5,
        std=0.01,
    ),
    finetune=Finetune(
        epochs=81,
        batch_size=128,
        learning_rate=0.001,
        head_rate=0.005,
        milestones=(50, 70, 80),
        decay=0.1,
        weight_decay=1e-6,
        crop_scale=(0.2, 1.0),
        flip=0.5,
        std=0.01,
    ),
)
SMALL = IMAGENET._replace(
    linear=Linear(
        epochs=100,
        batch_size=256,
        learning_rate=1.0,
        milestones=(40, 60, 80),
        decay=0.2,
        crop_scale=(),
        flip=0.5,
        scaled=False,
        std=0.01,
    ),
    # A few hundred images are few steps: more epochs, larger rates [ours].
    semi=IMAGENET.semi._replace(
        epochs=50,
        batch_size=64,
        learning_rate=0.01,
        head_rate=0.1,
        milestones=(25, 38, 45),
        crop_scale=(),
    ),
    finetune=IMAGENET.finetune._replace(crop_scale=()),
)


def recipe_for(name: str, size: int) -> Recipe:
    """That of a data set whose images are `size` pixels high and wide."""
    name = name.split(":")[-1].split("/")[0]  # 'tfds:emnist/letters'
    recipe = IMAGENET if size >= SMALL_BELOW else SMALL
    if name in RELEASED:
        recipe = recipe._replace(num_neighbors=200)
    if size < SMALL_BELOW and name in NOT_MIRRORED:
        parts = ("linear", "semi", "finetune")
        plain = {part: getattr(recipe, part)._replace(flip=0.0) for part in parts}
        recipe = recipe._replace(**plain)
    return recipe


def changed(
    options: NamedTuple, section: Mapping[str, Any], name: str
) -> Linear | Finetune:
    """The recipe's options, where the section `name` has a value with that instead.

    Raises:
      UserError: a value out of its range.
    """
    given = {key: value for key, value in section.items() if value is not None}
    options = options._replace(**given)
    for key in ("epochs", "batch_size", "learning_rate", "head_rate"):
        if not getattr(options, key, 1) > 0:
            raise UserError(f"{name}.{key}={getattr(options, key)}: set it above 0")
    if not 0 <= options.decay <= 1:
        raise UserError(f"{name}.decay={options.decay}: set it in [0, 1]")
    if not getattr(options, "weight_decay", 0.0) >= 0:
        raise UserError(
            f"{name}.weight_decay={options.weight_decay}: set it to 0 or above"
        )
    if not 0 <= options.flip <= 1:
        raise UserError(f"{name}.flip={options.flip}: it is a probability")
    check_crop_scale(name, options.crop_scale)
    return options
