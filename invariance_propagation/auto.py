"""What 'auto' stands for: settings that follow from the size of the data set.

docs/own_data.md says why, and what to do with those that have no such rule.
"""

from typing import Any

from invariance_propagation.errors import UserError

AUTO = "auto"
MOST_BACKGROUND = 4096  # the paper's M
MOST_VOTES = 200  # the paper's K
VOTING_SHARE = 0.15  # of a class; 200 of ImageNet's 1,281 are as many


def background_size(value: int | str, *, num_examples: int) -> int:
    """M: the largest power of two that is at most N / 2 and 4096, if it is 'auto'.

    Raises:
      UserError: it is neither a whole number nor 'auto'.
    """
    if _is_auto(value, "method.background_size"):
        return min(MOST_BACKGROUND, 1 << max(0, (num_examples // 2).bit_length() - 1))
    return value


def votes(value: int | str, *, num_examples: int, num_classes: int | None) -> int:
    """K of the kNN monitor: 15 % of the mean class and at most 200, if it is 'auto'.

    Without classes nothing votes, and any K will do.

    Raises:
      UserError: it is neither a whole number nor 'auto'.
    """
    if _is_auto(value, "knn.num_neighbors"):
        share = VOTING_SHARE * num_examples / (num_classes or num_examples)
        return min(MOST_VOTES, max(1, round(share)))
    return value


def _is_auto(value: Any, name: str) -> bool:
    if value != AUTO and (not isinstance(value, int) or isinstance(value, bool)):
        raise UserError(f"{name}={value!r}: set it to a whole number, or to 'auto'")
    return value == AUTO
