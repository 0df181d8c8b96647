"""What several methods and the report measure."""

import numpy as np

from invariance_propagation.methods.measures import most_similar


def test_nearest_are_in_order() -> None:
    similarities = np.array([0.1, 0.9, -1.0, 0.5])
    assert most_similar(similarities, count=3).tolist() == [1, 3, 0]


def test_some_are_ordered_with_their_repeats() -> None:
    similarities = np.array([0.1, 0.9, -1.0, 0.9])
    among = np.array([2, 3, 0, 1, 3])
    assert most_similar(similarities, among=among).tolist() == [3, 1, 3, 0, 2]
