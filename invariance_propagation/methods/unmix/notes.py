"""What Un-Mix tells about itself: the notes of the inner method, and its own panel."""

from collections.abc import Mapping, Sequence
from typing import Any

from invariance_propagation.methods.base import Notes, Panel, Row

PANEL = Panel(
    "Loss of mixtures",
    "loss per image",
    {"clean": "clean images", "mixed": "mixtures"},
    "The inner method's loss on clean images, and on mixtures of two images, which are "
    "harder. Their sum is what is trained on. Both jump where a part of the inner loss "
    "starts.",
)


def notes_around(inner: Notes, name: str) -> Notes:
    """Returns the notes of the inner method, with the loss of mixtures.

    Its `buffers` stay: the three losses are computed one after the other, in the same
    memory.
    """

    def outcome(rows: Sequence[Row], summary: Row, options: Mapping[str, Any]) -> Any:
        return inner.outcome(rows, summary, options["inner"])

    def brief(row: Row) -> list[str]:
        return [*inner.brief(row), f"mixtures {row['mixed']:.3f}"]

    about = f"mixtures of images for {name}"
    return inner._replace(
        about=f"{about}; {inner.about}" if inner.about else about,
        brief=brief,
        outcome=outcome,
        panels=(*inner.panels, PANEL),
    )
