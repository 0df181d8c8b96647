"""What the paper reports, for the rows of tables that were measured likewise.

Only what could be read in the paper's abstract: ResNet-50, ImageNet. The numbers for
Places205, VOC07 and the small sets were not at hand.
"""

import json

from invariance_propagation.evaluation.cards import Card
from invariance_propagation.evaluation.recipes import IMAGENET

DEPTH, IMAGES = 50, 1_281_167
PUBLISHED = {
    ("linear", "imagenet2012"): (IMAGENET.linear, {"top1": 0.713}),
    ("semi", "imagenet2012"): (IMAGENET.semi, {"top5, 1%": 0.782}),
    ("semi_1pct", "imagenet2012"): (IMAGENET.semi, {"top5, 1%": 0.782}),
}


def published(card: Card) -> dict[str, float]:
    """Score -> the paper's number, in [0, 1]; empty if the card's numbers differ."""
    if (card.network.get("depth"), card.data["train"]) != (DEPTH, IMAGES):
        return {}
    name = card.data["name"].split("/")[0]  # before its version
    options, scores = PUBLISHED.get((card.protocol, name), (None, {}))
    if options is None or _plain(options._asdict()) != _plain(card.settings["options"]):
        return {}
    return scores


def _plain(options: dict) -> dict:
    """As a card that has been written has it: with lists for tuples."""
    return json.loads(json.dumps(options))
