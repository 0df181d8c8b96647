"""A card as an evaluation makes it, without evaluating."""

from invariance_propagation.evaluation.cards import Card


def make_card(**changes) -> Card:
    card = Card(
        protocol="linear",
        version=1,
        settings={
            "view": {"size": 8},
            "options": {"epochs": 3, "crop_scale": (0.2, 1.0)},
        },
        data={"name": "digits", "digest": "ab", "train": 1347, "held_out": 450}
        | {"classes": 10},
        encoder="step 7",
        network={"depth": 18},
        checkpoint={"digest": "cd", "step": 7, "path": "runs/digits"},
        scores={"top1": {"0": 0.9, "1": 0.92}, "top5": {"0": 1.0, "1": 1.0}},
        made={"commit": None, "seconds": 1.5},
    )
    return card._replace(**changes)
