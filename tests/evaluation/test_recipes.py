"""The numbers of the protocols: which data have which, and where they are the paper's."""

import re
from types import ModuleType

import pytest

from configs.evaluate import FINETUNE, LINEAR
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.cards import Card
from invariance_propagation.evaluation.protocols import linear, semi, transfer
from invariance_propagation.evaluation.published import published
from invariance_propagation.evaluation.recipes import (
    Finetune,
    Linear,
    changed,
    recipe_for,
)
from tests.made_card import make_card


def test_the_config_has_the_keys_of_a_recipe() -> None:
    assert tuple(name for name, _ in LINEAR) == Linear._fields
    assert tuple(name for name, _ in FINETUNE) == Finetune._fields


def options_of(protocol: ModuleType, name: str, size: int) -> Linear | Finetune:
    numbers = {"imagenet": protocol.IMAGENET, "small": protocol.SMALL}
    return recipe_for(name, size, **numbers)


@pytest.mark.parametrize("protocol", [linear, semi, transfer])
def test_size_and_name_choose(protocol: ModuleType) -> None:
    for name in ("image_folder", "imagenet"):
        assert options_of(protocol, name, 224) is protocol.IMAGENET
    for name in ("stl10", "cifar10", "tfds:cifar100"):
        assert options_of(protocol, name, 32) is protocol.SMALL
    assert options_of(protocol, "tfds:emnist/letters", 28).flip == 0
    assert options_of(protocol, "letters", 28).flip == 0
    svhn = options_of(protocol, "svhn", 32)
    assert options_of(protocol, "tfds:svhn_cropped", 32) == svhn
    digits = options_of(protocol, "digits", 8)
    assert digits.flip == 0 and digits._replace(flip=0.5) == protocol.SMALL


def test_what_is_given_replaces_what_is_published() -> None:
    section = dict.fromkeys(Linear._fields) | {"epochs": 7, "flip": 0.0}
    options = changed(linear.IMAGENET, section, "linear")
    assert options == linear.IMAGENET._replace(epochs=7, flip=0.0)


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
        changed(semi.IMAGENET, {name: value}, "semi")


NETWORK = {"depth": 50, "stem": "imagenet", "width": 64, "channels": 3}


def card_of(name: str = "imagenet2012/5.1.0", **changes) -> Card:
    given = linear.IMAGENET._asdict() | changes.pop("options", {})
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
