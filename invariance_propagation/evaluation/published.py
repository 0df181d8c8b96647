"""What the paper reports, for the rows of tables that were measured likewise.

Only what could be read in the paper's abstract: ResNet-50, ImageNet. The numbers for
Places205, VOC07 and the small sets were not at hand.
"""

import json
from collections.abc import Sequence

from invariance_propagation.evaluation.cards import Card
from invariance_propagation.evaluation.recipes import IMAGENET

IMAGES, SIZE = 1_281_167, 224
NETWORK = {"depth": 50, "stem": "imagenet", "width": 64, "channels": 3}
PUBLISHED = {
    ("linear", "imagenet2012"): (IMAGENET.linear, {"top1": 0.713}),
    ("semi", "imagenet2012"): (IMAGENET.semi, {"top5, 1%": 0.782}),
    ("semi_1pct", "imagenet2012"): (IMAGENET.semi, {"top5, 1%": 0.782}),
}


def published(cards: Sequence[Card]) -> dict[str, float]:
    """Score -> the paper's number, in [0, 1]; empty if none was measured as it was.

    Args:
      cards: of one kind.
    """
    first = cards[0]
    if (first.data["train"], first.settings["view"]["size"]) != (IMAGES, SIZE):
        return {}
    name = first.data["name"].split("/")[0]  # before its version
    options, scores = PUBLISHED.get((first.protocol, name), (None, {}))
    if options is None or _plain(options._asdict()) != _plain(
        first.settings["options"]
    ):
        return {}
    return scores if any(card.network == NETWORK for card in cards) else {}


def _plain(options: dict) -> dict:
    """As a card that has been written has it: with lists for tuples."""
    return json.loads(json.dumps(options))
