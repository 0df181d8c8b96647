"""Finds the paper's scores for tables that were measured in the same way.

Only scores from the paper's abstract are known: ResNet-50 on ImageNet. Those on
Places205, VOC07 and the small sets were not at hand.
"""

import json
from collections.abc import Sequence

from invariance_propagation.evaluation.cards import Card
from invariance_propagation.evaluation.protocols import PROTOCOLS, find_protocol
from invariance_propagation.evaluation.recipes import set_name

IMAGES, SIZE = 1_281_167, 224
NETWORK = {"depth": 50, "stem": "imagenet", "width": 64, "channels": 3}


def published(cards: Sequence[Card]) -> dict[str, float]:
    """Returns the paper's scores, in [0, 1], by name.

    Args:
      cards: of one kind. The result is empty unless they were measured as in the paper
        and one of them is of the same network.
    """
    first = cards[0]
    if (first.data["train"], first.settings["view"]["size"]) != (IMAGES, SIZE):
        return {}
    name = first.protocol
    known = find_protocol(name).published if name in PROTOCOLS else {}
    options, scores = known.get(set_name(first.data["name"]), (None, {}))
    if options is None or _plain(options._asdict()) != _plain(
        first.settings["options"]
    ):
        return {}
    return dict(scores) if any(card.network == NETWORK for card in cards) else {}


def _plain(options: dict) -> dict:
    """Replaces tuples by lists, as in a card that was written to a file."""
    return json.loads(json.dumps(options))
