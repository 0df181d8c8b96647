"""What Invariance Propagation says about itself: messages, diagnostics, the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invariance_propagation.core.search import buffer_bytes
from invariance_propagation.methods.base import (
    Gallery,
    Notes,
    Panel,
    Row,
    Strip,
    part_of,
)
from invariance_propagation.methods.invariance_propagation.purity import hop_purity
from invariance_propagation.methods.invariance_propagation.reach import cosines, reach

# Below this share of neighbours kept between visits, beyond what chance keeps, the graph
# is new each epoch. When the term starts it is 0.09 on digits, 0.08 on Fashion-MNIST (two
# thirds of the positives are right); 0.007 in a run of the latter whose neighbours then
# got worse.
STABLE_OVERLAP = 0.05
NEGATIVES = 8  # in a row of the report

PANELS = (
    Panel(
        "Instance loss",
        "nats per image",
        {"instance": ""},
        "How hard it is to tell an image from all others. Falls as training goes on.",
    ),
    Panel(
        "Propagation loss",
        "nats per image",
        {"propagation": ""},
        "How far the positives are from their anchor, beside the most similar other "
        "images. Before propagation starts it is only watched.",
    ),
    Panel(
        "Purity of the positives",
        "% with the anchor's label",
        {"purity_by_hop": "hop"},
        "Of all that propagation reaches, the share that has the anchor's label. "
        "Labels are used for this plot alone. Further hops are less pure.",
        100,
    ),
    Panel(
        "Neighbours found again",
        "% of an image's neighbours",
        {"neighbor_overlap": ""},
        "The share of an image's neighbours that are found again at its next visit; "
        "needs no labels. Near 0 the graph is made anew each epoch.",
        100,
        from_zero=True,
    ),
)


def make_notes(
    *,
    num_examples: int,
    num_neighbors: int,
    starts: int | None,
    num_hops: int,
    num_hard: int,
    background_size: int,
    form: str,
    positives: str,
    **others: Any,
) -> Notes:
    """Binds the options that the notes speak of.

    Args:
      num_examples: N.
      num_neighbors: k.
      starts: the first epoch with propagation; None if it has none or starts by itself.
      Others: as in `invp_losses`.
    """
    del others

    def buffers(batch_size: int, num_devices: int) -> dict[str, int]:
        rows = -(-num_examples // num_devices)
        return {"similarities": buffer_bytes(batch_size, rows)}

    def warnings(epochs: int) -> list[str]:
        if starts is None or starts < epochs:
            return []
        return [
            f"propagation starts in epoch {starts} (method.start_epoch), but there are "
            f"only {epochs} (train.epochs), counted from 0: this trains instance "
            "discrimination alone; lower the one, or raise the other"
        ]

    def notices(row: Row, before: Row) -> list[str]:
        chance = num_neighbors / (num_examples - 1)
        return describe_start(row, before, chance=chance)

    def measure(memory: Any, labels: np.ndarray, indices: np.ndarray) -> dict[str, Any]:
        found = hop_purity(memory.graph, labels, indices, num_hops=num_hops)
        *hops, overall = (float(x) if math.isfinite(x) else None for x in found)
        return {"purity": overall, "purity_by_hop": hops}

    def strips(memory: Any, anchor: int) -> tuple[list[Strip], str]:
        reached = reach(
            cosines(part_of(memory, "bank"), anchor),
            part_of(memory, "graph"),
            anchor,
            num_hops=num_hops,
            num_hard=num_hard,
            positives=positives,
            form=form,
            background_size=background_size,
            num_negatives=NEGATIVES,
        )
        shown = [
            Strip(f"hop {number}", ids, reached.chosen)
            for number, ids in enumerate(reached.hops, 1)
        ]
        shown.append(Strip("nearest negatives", reached.negatives, kind="negative"))
        total, count = sum(map(len, reached.hops)), len(reached.chosen)
        pulled = "all" if count == total else count
        note = f"{total} positives; the propagation loss is given {pulled} of them"
        note = note if total else ""
        return shown, note

    which = {"hard": "least", "easy": "most"}[positives]
    return Notes(
        about=f"a background of M = {background_size:,} images",
        buffers=buffers,
        starts=starts,
        warnings=warnings,
        brief=brief,
        notices=notices,
        measure=measure,
        table=table,
        outcome=outcome,
        begins=begins,
        rows="bank",
        neighbors="graph",
        panels=PANELS,
        gallery=Gallery(
            title="Propagation",
            legend="Some training images, evenly spread, as anchors. A hop goes from each "
            "image to its nearest neighbours; all that is reached counts as a positive. A "
            "picture stands where it is reached first.",
            marks={
                "chosen": f"the {which} similar positives: the propagation loss pulls "
                "these in, from where it starts",
                "negative": "nearest negatives: most similar, but not reached",
            },
            strips=strips,
        ),
    )


def describe_start(row: Row, before: Row, *, chance: float) -> list[str]:
    """Reports the quality of the positives when propagation switches on.

    Args:
      row: of metrics.jsonl.
      before: the row before it. A run in which the term is on from its first row has no
        such moment.
      chance: share of neighbours that random ones would keep, k / (N - 1).

    Returns:
      A sentence, and a warning if the graph is not stable; nothing in other rows.
    """
    overlap, epoch = before.get("neighbor_overlap"), row["epoch"]
    if overlap is None or _propagates(before) or not _propagates(row):
        return []
    text = f"epoch {epoch}: propagation starts; neighbours kept between visits "
    text += _percent(overlap)
    if "purity" in before:
        hops = ", ".join(map(_percent, before["purity_by_hop"]))
        text += (
            f"; purity of the positives {_percent(before['purity'])} (by hop {hops})"
        )
    lines = [text]
    if overlap - chance < STABLE_OVERLAP:
        beyond = f" beyond the {_percent(chance)} of chance" if chance > 1e-4 else ""
        lines.append(
            f"warning: fewer than {_percent(STABLE_OVERLAP)} of the neighbours are kept "
            f"between visits{beyond}, so the graph is not stable yet: propagation may do "
            f"harm; a later start (method.start_epoch > {epoch}, or "
            "method.start='auto') may serve better"
        )
    return lines


def brief(row: Row) -> list[str]:
    """Names both losses, the weight of the second, and the purity of its positives."""
    phrases = [
        f"instance {row['instance']:.3f}",
        f"propagation {row['propagation']:.3f} x {row['propagation_weight']:.2g}",
    ]
    if row.get("purity") is not None:
        phrases.append(f"purity {row['purity']:.3f}")
    return phrases


def table(summary: Row) -> list[str]:
    """Lists the purity of each hop."""
    if "purity" not in summary:
        return []
    hops = [
        f"  hop {hop}: {_percent(share)}"
        for hop, share in enumerate(summary["purity_by_hop"], 1)
    ]
    all_hops = f"  all hops: {_percent(summary['purity'])}"
    return ["purity of the propagated positives", *hops, all_hops]


def begins(rows: Sequence[Row]) -> int | None:
    """Finds the first epoch with propagation; None if there has been none."""
    return min((row["epoch"] for row in rows if _propagates(row)), default=None)


def outcome(
    rows: Sequence[Row], summary: Row, options: Mapping[str, Any]
) -> dict[str, str]:
    """Tells when propagation began, and how pure its positives are."""
    start = begins(rows)
    none = "off" if options.get("propagation_weight") == 0 else "not begun"
    found = {"propagation": none if start is None else f"from epoch {start} on"}
    # The summary's is of all images, that of a row of some.
    purities = [row["purity"] for row in rows if "purity" in row] or [None]
    purity = summary.get("purity", purities[-1])
    if purity is not None:
        found["purity of the positives"] = _percent(purity)
    return found


def _propagates(row: Row) -> bool:
    return row.get("propagation_weight", 0.0) > 0


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.2f} %"
