"""Oracle of CoKe: NumPy in float64, one image after another, from its specification.

Numbers in comments are lines of the authors' code, idstcv/CoKe at 77228ae:
s for coke/builder_single_view.py, d for coke/builder_double_view.py, and m for the loss in
main_multi_view.py. Nothing is shared with the package.
"""

from dataclasses import dataclass

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(np.sqrt((x**2).sum()), 1e-12)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def entropy(target: np.ndarray, logits: np.ndarray) -> float:
    return -sum(t * x for t, x in zip(target, log_softmax(logits), strict=True))


@dataclass
class Head:
    """One clustering: centres are rows here, columns in the authors' code."""

    pre: np.ndarray  # [K, d], used by the loss
    cur: np.ndarray  # [K, d], being built
    label: np.ndarray  # [N]; -1 before the first visit
    slots: list[dict[int, float]]  # for each image: weight by label, second stage

    def __post_init__(self) -> None:
        self.rho = np.zeros(len(self.pre))
        self.count = np.zeros(len(self.pre), int)


@dataclass
class Options:
    eta: float
    gamma: float
    tau: float
    alpha: float = 0.2
    beta: float = 1.0
    large: float = 0.5
    stage: int = 10**9
    num_slots: int = 5
    slot_temperature: float = 0.5


@dataclass
class Step:
    """What a batch finds: indices [b], and unit vectors by view, [v, b, d]."""

    indices: np.ndarray
    p: np.ndarray
    q: np.ndarray
    small_p: np.ndarray | None = None
    small_q: np.ndarray | None = None


def assign(u: np.ndarray, centers: np.ndarray, rho: np.ndarray) -> int:
    return int(np.argmax([u @ c + r for c, r in zip(centers, rho, strict=True)]))


def take_step(
    heads: list[Head], batch: Step, epoch: int, options: Options
) -> np.ndarray:
    """Changes `heads` as a step does; returns the loss of each image, [b]."""
    features = batch.p.mean(axis=0)  # d:105; not of unit length
    losses = np.zeros(len(batch.indices))
    for head in heads:
        centers = head.pre if epoch >= options.stage else head.cur  # s:60-63
        new = [assign(u, centers, head.rho) for u in features]
        targets = [
            target_of(head, i, y, epoch, options)  # the old label, before it is written
            for i, y in zip(batch.indices, new, strict=True)
        ]
        losses += loss_of(batch, targets, head.pre, options) / len(heads)
        move(head, features, new, epoch, options)
        for i, y in zip(batch.indices, new, strict=True):
            if epoch >= options.stage:
                average_label(head.slots[i], y, epoch - options.stage, options)
            head.label[i] = y
    return losses


def target_of(
    head: Head, image: int, new: int, epoch: int, options: Options
) -> np.ndarray:
    """Probabilities [K]: one label, or from the second epoch of the second stage several."""
    target = np.zeros(len(head.pre))
    if epoch > options.stage and head.slots[image]:  # s:90-98
        for label, weight in head.slots[image].items():
            target[label] = np.exp(weight / options.slot_temperature)
        return target / target.sum()
    target[new if head.label[image] < 0 else head.label[image]] = 1  # s:147-152
    return target


def move(
    head: Head, features: np.ndarray, new: list[int], epoch: int, options: Options
) -> None:
    """The dual step and the centre step: d:70-81."""
    for k in range(len(head.rho)):
        share = new.count(k) / len(new)
        head.rho[k] -= options.eta * (share - options.gamma / len(head.rho))
        if options.gamma < 1:
            head.rho[k] = max(0.0, head.rho[k])
    for k in set(new):
        members = [u for u, y in zip(features, new, strict=True) if y == k]
        total = head.count[k] * head.cur[k] + sum(members)
        head.count[k] += len(members)
        head.cur[k] = total / head.count[k]
        if epoch < options.stage:  # s:127
            head.cur[k] = unit(head.cur[k])


def average_label(slots: dict[int, float], new: int, t: int, options: Options) -> None:
    """The running average of an image's labels, kept in a few slots: s:65-86."""
    factor = 1 / (t + 1) if slots else 1.0
    if t == 0:
        slots.clear()
    if new not in slots and len(slots) == options.num_slots:
        lightest = min(slots, key=slots.get)
        dropped = slots.pop(lightest)
        for label in slots:
            slots[label] /= 1 - dropped
    for label in slots:
        slots[label] *= 1 - factor
    slots[new] = slots.get(new, 0.0) + factor


def end_epoch(heads: list[Head], epoch: int, options: Options) -> None:
    """s:101-113."""
    for head in heads:
        if epoch < options.stage:
            head.pre = head.cur.copy()
        else:
            factor = 1 / (epoch - options.stage + 1)
            for k in range(len(head.pre)):
                mixed = (1 - factor) * head.pre[k] + factor * unit(head.cur[k])
                head.pre[k] = unit(mixed)
            head.cur = head.pre.copy()
        head.count[:] = 0


def loss_of(
    batch: Step, targets: list[np.ndarray], centers: np.ndarray, options: Options
) -> np.ndarray:
    """Of each image, [b], in one clustering."""
    found = []
    for b, target in enumerate(targets):
        p = [x[b] @ centers.T / options.tau for x in batch.p]
        q = [x[b] @ centers.T / options.tau for x in batch.q]
        if len(p) == 1:  # main_single_view.py:319
            beta = options.beta
            loss = beta * entropy(target, q[0]) + (1 - beta) * entropy(target, p[0])
            found.append(loss)
            continue
        soft = [np.exp(log_softmax(x)) for x in p]
        large = 0.0
        for view in (0, 1):  # m:353-362
            for x in (q[view], p[view]):
                large += options.alpha * entropy(target, x)
                large += (1 - options.alpha) * entropy(soft[1 - view], x)
        large *= 0.5 / 2  # m:374
        if batch.small_p is None:
            found.append(large)
            continue
        small = 0.0
        for views in (batch.small_q, batch.small_p):  # m:364-372
            for view in views:
                x = view[b] @ centers.T / options.tau
                small += 2 * options.alpha * entropy(target, x)
                small += (1 - options.alpha) * entropy(soft[0] + soft[1], x)
        small *= 0.5 / (2 * len(batch.small_p))  # m:375
        found.append(options.large * large + (1 - options.large) * small)  # m:376
    return np.array(found)
