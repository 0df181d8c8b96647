"""Options of the objective that float32 or memory cannot bear."""

from typing import Any

import pytest

from invariance_propagation.core.options import LossOptions
from invariance_propagation.errors import UserError

GOOD = LossOptions(3, 50, 20, 0.2, "paper", "hard", "exact", "highest")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 1e39}, r"^temperature=1e\+39: set it above 0"),
        ({"temperature": 1e-46}, "^temperature=1e-46: set it above 0"),
        ({"num_hops": 10}, "^num_hops=10: .* set num_hops to at most 9"),
        ({"num_hops": 10**9}, "set num_hops to at most 9"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        GOOD._replace(**change).checked(num_examples=100, num_neighbors=4)


def test_the_longest_walk_is_allowed() -> None:
    GOOD._replace(num_hops=9).checked(num_examples=100, num_neighbors=4)


def test_one_image_is_too_few() -> None:
    with pytest.raises(UserError, match="at least 2 images are needed"):
        GOOD._replace(background_size=1).checked(num_examples=1, num_neighbors=1)
