"""What a score can mean: NaN, features that are all alike, and labels that say little."""

import numpy as np
import pytest

from invariance_propagation.data.changes import Known
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation import meaning


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(value: float) -> None:
    x = np.ones((9, 4), np.float32)
    meaning.check_finite(3e38 * x, "training images")
    x[5, 2] = x[7, 0] = value
    with pytest.raises(TrainingError) as error:
        meaning.check_finite(x, "training images")
    expected = "2 of 9 training images are NaN or infinite, first those of number 5"
    assert expected in str(error.value)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 3e38])
def test_rows_are_alike_up_to_rounding(scale: float) -> None:
    row = np.float32(scale) * np.linspace(-1, 1, 5, dtype=np.float32)
    rows = np.stack([row] * 6)
    assert meaning.all_alike(rows)
    assert meaning.all_alike(rows * np.float32(1 - 1e-7))
    rows[3, 0] *= 0.999
    assert not meaning.all_alike(rows)
    assert meaning.all_alike(np.zeros((3, 2)))


def test_one_class_is_refused() -> None:
    for labels in ([0, 0, 0], [7, 7]):
        with pytest.raises(UserError, match="x: all . training images are of one"):
            meaning.check_classes(np.array(labels), "x")
    meaning.check_classes(np.array([0, 7]), "x")
    meaning.check_classes(np.eye(3, dtype=np.int8), "x")


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([0, 1], [1, 0], []),
        ([0, 1, 2], [1, 0], []),
        ([4, 4], [4], ["one class: every answer is right"]),
        ([0, 1], [1, 1], ["all held-out images are of one class"]),
        ([0, 1], [1, 2, 3, 0], ["2 of 4 held-out images belong to classes without"]),
        ([0, 90], [90, 0], ["only 2 of 91 classes have training images, so top5"]),
        (list(range(10)), [0, 9], []),
        ([[1, 0], [0, 1]], [[1, 1]], []),
        ([[1, 0, -1], [0, 1, 0]], [[1, 0, 1]], ["2 of 3 classes are left out"]),
    ],
)
def test_labels_that_say_little_are_remarked_on(train, test, expected) -> None:
    found = meaning.remarks(np.array(train), np.array(test))
    assert len(found) == len(expected)
    for remark, start in zip(found, expected, strict=True):
        assert remark.startswith(start)


NAMES, CONTENTS = list("abc"), np.array([7, 8, 9], np.uint32)


@pytest.mark.parametrize(
    ("trained_on", "expected"),
    [
        (None, 0),
        (Known(["x/a", "d"], CONTENTS[:2]), 0),
        (Known(["d", "c", "a"], np.array([1, 9, 7], np.uint32)), 2),
        # Other pictures that took their names.
        (Known(["c", "a"], np.array([7, 9], np.uint32)), 0),
        (Known(["c", "a", "b"], None), 3),
    ],
)
def test_images_of_the_training_are_counted(trained_on, expected: int) -> None:
    class Tested:
        ids = NAMES

        def checksums(self) -> np.ndarray:
            return CONTENTS

    found = meaning.remarks_on_seen(trained_on, Tested())
    assert [remark.split(" held-out images")[0] for remark in found] == [
        f"{expected} of 3"
    ] * bool(expected)


def test_classes_too_small_for_a_low_shot_score_are_remarked_on() -> None:
    targets = np.repeat(np.eye(3, dtype=np.int8), [96, 100, 12], axis=0)
    targets[100, 2] = -1
    (remark,) = meaning.remarks_on_few(targets, 96)
    assert remark.startswith("the smallest class has 12 training images")
    assert meaning.remarks_on_few(targets, 12) == []


def test_more_votes_than_a_class_can_win_are_remarked_on() -> None:
    labels = np.array([0] * 10 + [1] * 6)
    assert meaning.remarks_on_votes(10, labels) == []
    assert meaning.remarks_on_votes(16, labels) == []
    (remark,) = meaning.remarks_on_votes(20, labels)
    assert remark.startswith("K = 20, but no class has more than 10 training images")
