"""Messages, diagnostics and report sections of Invariance Propagation."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from invariance_propagation.core.search import buffer_bytes
from invariance_propagation.errors import percent
from invariance_propagation.methods.base import (
    Gallery,
    Notes,
    Panel,
    Row,
    Strip,
    part_of,
)
from invariance_propagation.methods.invariance_propagation.options import Options
from invariance_propagation.methods.invariance_propagation.purity import hop_purity
from invariance_propagation.methods.invariance_propagation.reach import reach
from invariance_propagation.methods.invariance_propagation.readiness import is_ready
from invariance_propagation.parallel import rows_per_device

# If a smaller share of neighbours than this, beyond what chance keeps, is kept between
# visits, the graph is practically new in each epoch. When propagation starts the share is
# 0.09 on digits and 0.08 on Fashion-MNIST (two thirds of the positives are right); it was
# 0.007 in a Fashion-MNIST run whose neighbours then got worse.
STABLE_OVERLAP = 0.05
NEGATIVES = 8  # shown per anchor

PANELS = (
    Panel(
        "Instance loss",
        "nats per image",
        {"instance": ""},
        "How hard it is to tell an image from all others. It falls as training goes on.",
    ),
    Panel(
        "Propagation loss",
        "nats per image",
        {"propagation": ""},
        "How far the positives are from their anchor, compared with the most similar "
        "other images. Before propagation starts, this is measured but not trained on.",
    ),
    Panel(
        "Purity of the positives",
        "% with the anchor's label",
        {"purity_by_hop": "hop"},
        "The share of the images reached by propagation that have the anchor's label. "
        "Labels are used for this plot only. Later hops are less pure.",
        100,
    ),
    Panel(
        "Neighbours found again",
        "% of an image's neighbours",
        {"neighbor_overlap": ""},
        "The share of an image's neighbours that are found again at its next visit; "
        "needs no labels. Near 0, the graph is practically new in each epoch.",
        100,
        from_zero=True,
    ),
)


def make_notes(options: Options, *, num_examples: int) -> Notes:
    """Binds what the notes depend on: the options of the method, and N."""
    starts_at_epoch = options.start == "epoch" and options.propagation_weight
    starts = options.start_epoch if starts_at_epoch else None
    chance = options.num_neighbors / (num_examples - 1)
    return Notes(
        about=f"a background of M = {options.background_size:,} images",
        buffers=partial(buffers, num_examples=num_examples),
        starts=starts,
        warnings=partial(warn_of_no_start, starts=starts),
        brief=brief,
        notices=partial(describe_start, chance=chance),
        # Only what is whole on a device can be measured while training.
        measure=(
            None
            if options.shards_graph
            else partial(measure, num_hops=options.num_hops)
        ),
        remarks=(
            partial(remark_on_no_start, threshold=options.threshold(num_examples))
            if options.starts_by_itself
            else lambda memory: []
        ),
        table=table,
        outcome=outcome,
        begins=begins,
        rows="bank",
        neighbors="graph",
        panels=PANELS,
        gallery=Gallery(
            title="Propagation",
            legend="Some training images, evenly spread, as anchors. A hop leads from "
            "each image to its nearest neighbours, and every image that is reached counts "
            "as a positive. A picture is shown with the hop that reaches it first.",
            marks={
                "chosen": f"the {'least' if options.positives == 'hard' else 'most'} "
                "similar positives: the propagation loss pulls these in, once it is on",
                "negative": "nearest negatives: the most similar images that no hop "
                "reaches",
            },
            strips=partial(strips, options=options),
        ),
    )


def buffers(
    batch_size: int, num_devices: int, platform: str, *, num_examples: int
) -> dict[str, int]:
    """Returns the bytes of the loss's largest arrays on each device."""
    rows = rows_per_device(num_examples, num_devices, platform)
    return {"similarities": buffer_bytes(batch_size, rows, platform)}


def warn_of_no_start(epochs: int, *, starts: int | None) -> list[str]:
    """Warns if a run of `epochs` ends before propagation starts in epoch `starts`."""
    if starts is None or starts < epochs:
        return []
    return [
        f"propagation starts in epoch {starts} (method.start_epoch), but there are only "
        f"{epochs} epochs (train.epochs), counted from 0: propagation is "
        "never trained; lower method.start_epoch, or raise train.epochs"
    ]


def measure(
    memory: Any, labels: np.ndarray, indices: np.ndarray, *, num_hops: int
) -> dict[str, Any]:
    """Measures the purity of the positives of some images, by hop and for all hops.

    Args:
      memory: of the method.
      labels: int [N].
      indices: int [n], the anchors.
      num_hops: l.

    Returns:
      'purity' and 'purity_by_hop', None where nothing is reached.
    """
    values = hop_purity(memory.graph, labels, indices, num_hops=num_hops)
    *hops, overall = (float(x) if math.isfinite(x) else None for x in values)
    return {"purity": overall, "purity_by_hop": hops}


def strips(
    memory: Any, anchor: int, similarities: np.ndarray, *, options: Options
) -> tuple[list[Strip], str]:
    """Shows one anchor's hops and negatives, and says how many positives are pulled in.

    Args:
      memory: of the method.
      anchor: index of the anchor.
      similarities: float [N], cosines of the anchor's row of the bank with all rows.
      options: those of the method.
    """
    reached = reach(
        similarities,
        part_of(memory, "graph"),
        anchor,
        options=options,
        num_negatives=NEGATIVES,
    )
    shown = [
        Strip(f"hop {number}", ids, reached.chosen)
        for number, ids in enumerate(reached.hops, 1)
    ]
    shown.append(Strip("nearest negatives", reached.negatives, kind="negative"))
    total, count = sum(map(len, reached.hops)), len(reached.chosen)
    if not total:
        return shown, ""
    pulled = "all" if count == total else count
    return shown, f"{total} positives; the propagation loss pulls in {pulled} of them"


def describe_start(row: Row, before: Row, *, chance: float) -> list[str]:
    """Reports the quality of the positives when propagation switches on.

    Args:
      row: a row of metrics.jsonl.
      before: the row before it.
      chance: share of neighbours that random ones would keep, k / (N - 1).

    Returns:
      If propagation starts between the two rows: a sentence, and a warning if the graph
      is not stable. Otherwise nothing.
    """
    overlap, epoch = before.get("neighbor_overlap"), row["epoch"]
    if overlap is None or _propagates(before) or not _propagates(row):
        return []
    text = f"epoch {epoch}: propagation starts; neighbours kept between visits "
    text += percent(overlap)
    if "purity" in before:
        hops = ", ".join(map(percent, before["purity_by_hop"]))
        text += f"; purity of the positives {percent(before['purity'])} (by hop {hops})"
    lines = [text]
    if overlap - chance < STABLE_OVERLAP:
        beyond = f" beyond the {percent(chance)} of chance" if chance > 1e-4 else ""
        lines.append(
            f"warning: fewer than {percent(STABLE_OVERLAP)} of the neighbours are kept "
            f"between visits{beyond}, so the graph is not stable yet and propagation may "
            f"do harm: try a later start (--config.method.start_epoch above {epoch}, or "
            "--config.method.start=auto)"
        )
    return lines


def remark_on_no_start(memory: Any, *, threshold: float) -> list[str]:
    """Says if method.start='auto' has not started propagation, and why."""
    readiness = part_of(memory, "readiness")
    if bool(is_ready(readiness)):
        return []
    kept = percent(float(readiness.overlap))
    return [
        f"propagation has not started: the neighbours kept between visits, {kept} at the "
        f"end, did not reach the {percent(threshold)} of method.start=auto, so this is "
        "instance discrimination; train longer, or lower method.start_overlap"
    ]


def brief(row: Row) -> list[str]:
    """Returns both losses, the weight of the second, and the purity of its positives."""
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
        f"  hop {hop}: {percent(share)}"
        for hop, share in enumerate(summary["purity_by_hop"], 1)
    ]
    all_hops = f"  all hops: {percent(summary['purity'])}"
    return ["purity of the propagated positives", *hops, all_hops]


def begins(rows: Sequence[Row]) -> int | None:
    """Returns the first epoch with propagation; None if it has not started."""
    return min((row["epoch"] for row in rows if _propagates(row)), default=None)


def outcome(
    rows: Sequence[Row], summary: Row, options: Mapping[str, Any]
) -> dict[str, str]:
    """Says when propagation started, and how pure its positives are."""
    start = begins(rows)
    if start is not None:
        text = f"from epoch {start} on"
    else:
        text = "off" if options.get("propagation_weight") == 0 else "not started"
    facts = {"propagation": text}
    # The summary measures all images, a row of metrics.jsonl only some.
    purities = [row["purity"] for row in rows if "purity" in row] or [None]
    purity = summary.get("purity", purities[-1])
    if purity is not None:
        facts["purity of the positives"] = percent(purity)
    return facts


def _propagates(row: Row) -> bool:
    return row.get("propagation_weight", 0.0) > 0
