"""Reads the length of an epoch from the facts of a checkpoint."""

from collections.abc import Mapping
from typing import Any


def noted_steps_per_epoch(facts: Mapping[str, Any]) -> int:
    """Returns the steps per epoch that a run began with.

    Earlier versions did not note them: there it is N // B.
    """
    at_first = facts["num_examples"] // facts["batch_size"]
    return facts.get("steps_per_epoch", at_first)
