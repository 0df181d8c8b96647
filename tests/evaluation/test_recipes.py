"""The numbers of the protocols: which data have which, and where they are the paper's."""

import re

import pytest

from configs.evaluate import FINETUNE, LINEAR
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.cards import Card
from invariance_propagation.evaluation.published import published
from invariance_propagation.evaluation.recipes import (
    IMAGENET,
    SMALL,
    Finetune,
    Linear,
    changed,
    recipe_for,
)


def test_the_config_has_the_keys_of_a_recipe() -> None:
    assert tuple(name for name, _ in LINEAR) == Linear._fields
    assert tuple(name for name, _ in FINETUNE) == Finetune._fields


def test_size_and_name_choose() -> None:
    assert recipe_for("imagenet", 224) is IMAGENET
    assert recipe_for("cifar10", 32) is SMALL
    digits = recipe_for("digits", 8)
    assert (digits.linear.flip, digits.semi.flip, digits.finetune.flip) == (0, 0, 0)
    assert digits.linear._replace(flip=0.5) == SMALL.linear


def test_what_is_given_replaces_what_is_published() -> None:
    section = dict.fromkeys(Linear._fields) | {"epochs": 7, "flip": 0.0}
    options = changed(IMAGENET.linear, section, "linear")
    assert options == IMAGENET.linear._replace(epochs=7, flip=0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("head_rate", float("nan")),
        ("flip", 1.5),
        ("crop_scale", (0.5, 0.2)),
    ],
)
def test_what_cannot_be_is_named(name: str, value) -> None:
    with pytest.raises(UserError, match=re.escape(f"semi.{name}={value}: ")):
        changed(IMAGENET.semi, {name: value}, "semi")


def card_of(
    name: str, options: dict, *, train: int = 1_281_167, depth: int = 50
) -> Card:
    return Card(
        protocol="linear",
        version=1,
        settings={"view": {}, "options": options},
        data={"name": name, "train": train},
        encoder="step 7",
        network={"depth": depth},
        checkpoint={},
        scores={},
        made={},
    )


def test_a_published_number_stands_by_the_same_numbers_alone() -> None:
    options = IMAGENET.linear._asdict()
    as_read = options | {name: list(options[name]) for name in ("milestones",)}
    assert published(card_of("imagenet2012/5.1.0", options)) == {"top1": 0.713}
    assert published(card_of("imagenet2012/5.1.0", as_read)) == {"top1": 0.713}
    assert published(card_of("imagenet2012/5.1.0", options | {"epochs": 3})) == {}
    assert published(card_of("cifar10/3.0.2", options)) == {}
    for other in ({"train": 100_000}, {"depth": 18}):
        assert published(card_of("imagenet2012/5.1.0", options, **other)) == {}
