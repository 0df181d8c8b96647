"""Tests how a folder's pictures are divided, and which classes they have."""

import pytest

from invariance_propagation.data.sources.survey import classes_of, divide, is_held_out
from invariance_propagation.errors import UserError


def test_classes_are_the_topmost_folders() -> None:
    labels, names = classes_of(["b/1.png", "a/x/2.png", "a/3.png"])
    assert labels.tolist() == [1, 0, 0] and names == ["a", "b"]
    with pytest.raises(UserError, match=r"4.png is not in the folder.*classes=False"):
        classes_of(["b/1.png", "4.png"])


def test_what_is_held_out_depends_on_the_name_alone() -> None:
    names = [f"{i}.png" for i in range(4000)]
    held = [name for name in names if is_held_out(name, 0.25)]
    assert abs(len(held) / 4000 - 0.25) < 0.03
    assert not any(is_held_out(name, 0.0) for name in names)
    # A larger share keeps what a smaller one held out.
    assert all(is_held_out(name, 0.5) for name in held)


@pytest.mark.parametrize(
    "names", [["train/1.png", "car/1.png"], ["val/1.png", "a/1.png"]]
)
def test_a_class_may_be_called_train(names: list[str]) -> None:
    division = divide(names, 0.0)
    assert division.train == names and division.depth == 0
    assert not division.held_out
