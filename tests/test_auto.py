"""What 'auto' becomes: settings that follow from the data set."""

import pytest

from configs import image_folder, imagenet
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.protocols.knn import neighbors_for
from invariance_propagation.methods.invariance_propagation.options import (
    background_size_for,
)
from invariance_propagation.train.build import build
from tests.tiny_run import tiny_config


@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [(2, 1), (3, 1), (100, 32), (1347, 512), (8191, 2048), (8192, 4096)]
    + [(1_281_167, 4096)],
)
def test_the_background_follows_the_number_of_images(
    num_examples: int, expected: int
) -> None:
    chosen = background_size_for("auto", num_examples=num_examples)
    assert chosen == expected
    assert background_size_for(77, num_examples=num_examples) == 77


@pytest.mark.parametrize(
    ("num_examples", "num_classes", "expected"),
    [(1_281_167, 1000, 192), (50_000, 10, 200), (50_000, 100, 75), (1347, 10, 20)]
    + [(8, 8, 1), (900, None, 1)],
)
def test_votes_follow_the_size_of_a_class(
    num_examples: int, num_classes: int | None, expected: int
) -> None:
    sizes = {"num_examples": num_examples, "num_classes": num_classes}
    assert neighbors_for("auto", **sizes) == expected
    assert neighbors_for(7, **sizes) == 7


@pytest.mark.parametrize("value", ["many", 2.5, True, None])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="method.background_size=.*'auto'"):
        background_size_for(value, num_examples=100)
    with pytest.raises(UserError, match="knn.num_neighbors=.*'auto'"):
        neighbors_for(value, num_examples=100, num_classes=2)


def test_a_run_has_numbers() -> None:
    config = tiny_config(method__background_size="auto", knn__num_neighbors="auto")
    run = build(config)
    assert run.method.notes.about == "a background of M = 128 images"
    assert run.knn.num_neighbors == 4
    # A run stores its config as it was, with 'auto'.
    assert config.method.background_size == "auto"


def test_configs_of_other_peoples_data_are_automatic() -> None:
    config = image_folder.get_config()
    assert config.method.background_size == config.knn.num_neighbors == "auto"
    assert imagenet.get_config().method.background_size == 4096
