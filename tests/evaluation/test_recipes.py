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
from tests.made_card import make_card


def test_the_config_has_the_keys_of_a_recipe() -> None:
    assert tuple(name for name, _ in LINEAR) == Linear._fields
    assert tuple(name for name, _ in FINETUNE) == Finetune._fields


def test_size_and_name_choose() -> None:
    assert recipe_for("image_folder", 224) is IMAGENET
    assert recipe_for("imagenet", 224) == IMAGENET._replace(num_neighbors=200)
    assert recipe_for("stl10", 32) is SMALL
    for name in ("cifar10", "tfds:cifar100"):
        assert recipe_for(name, 32) == SMALL._replace(num_neighbors=200)
    assert recipe_for("tfds:emnist/letters", 28).linear.flip == 0
    assert recipe_for("tfds:svhn_cropped", 32) == recipe_for("svhn", 32)
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
        ("crop_scale", (0.5,)),
        ("decay", 2.0),
        ("weight_decay", -0.1),
    ],
)
def test_what_cannot_be_is_named(name: str, value) -> None:
    with pytest.raises(UserError, match=re.escape(f"semi.{name}={value}: ")):
        changed(IMAGENET.semi, {name: value}, "semi")


NETWORK = {"depth": 50, "stem": "imagenet", "width": 64, "channels": 3}


def card_of(name: str = "imagenet2012/5.1.0", **changes) -> Card:
    given = IMAGENET.linear._asdict() | changes.pop("options", {})
    network = NETWORK | changes.pop("network", {})
    own = {"size": 224, "train": 1_281_167} | changes
    return make_card(
        settings={"view": {"size": own["size"]}, "options": given},
        data={"name": name, "train": own["train"]},
        network=network,
    )


@pytest.mark.parametrize("options", [{}, {"milestones": [50, 80, 100]}])
def test_a_published_number_stands_by_the_same_numbers(options: dict) -> None:
    other = card_of(options=options, network={"depth": 18})
    assert published([other, card_of(options=options)]) == {"top1": 0.713}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "cifar10/3.0.2"},
        {"options": {"epochs": 3}},
        {"train": 100_000},
        {"size": 64},
        {"network": {"depth": 18}},
        {"network": {"stem": "cifar"}},
        {"network": {"width": 16}},
    ],
    ids=str,
)
def test_a_published_number_stands_by_no_others(changes: dict) -> None:
    assert published([card_of(**changes)]) == {}
