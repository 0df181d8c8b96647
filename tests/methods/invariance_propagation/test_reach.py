"""The images shown beside an anchor are those that the loss uses."""

import functools
import math

import jax
import numpy as np
import pytest

from invariance_propagation import init_graph, invp_losses
from invariance_propagation.methods.invariance_propagation.options import Options
from invariance_propagation.methods.invariance_propagation.reach import reach
from tests import tiny

SETTINGS = {"num_hops": 3, "num_hard": 5, "background_size": 20}
OPTIONS = Options(**tiny.METHOD | SETTINGS)


def slow_walk(graph: np.ndarray, anchor: int, num_hops: int) -> list[list[int]]:
    """Returns the slots of each hop, in order."""
    hops, frontier = [], [anchor]
    for _ in range(num_hops):
        frontier = [int(other) for node in frontier for other in graph[node]]
        hops.append(frontier)
    return hops


def cosines(bank: np.ndarray, anchor: int) -> list[float]:
    rows = [[float(v) for v in row] for row in bank]
    lengths = [math.sqrt(sum(v * v for v in row)) for row in rows]
    own = rows[anchor]
    return [
        sum(a * b for a, b in zip(own, row, strict=True)) / (lengths[anchor] * length)
        for row, length in zip(rows, lengths, strict=True)
    ]


@pytest.mark.parametrize("num_hops", [1, 2, 3])
@pytest.mark.parametrize("positives", ["hard", "easy"])
@pytest.mark.parametrize("form", ["paper", "released"])
def test_is_the_oracle(make_problem, num_hops: int, positives: str, form: str) -> None:
    problem = make_problem(num_hops, num_examples=30, num_neighbors=3)
    options = {"num_hops": num_hops, "positives": positives, "form": form}
    for anchor in (0, 17):
        similar = cosines(problem.bank, anchor)
        found = reach(
            np.array(similar),
            problem.graph,
            anchor,
            options=OPTIONS._replace(**options),
            num_negatives=6,
        )
        seen, hops = {anchor}, slow_walk(problem.graph, anchor, num_hops)
        for shown, places in zip(found.hops, hops, strict=True):
            ring = set(places) - seen
            seen |= ring
            assert shown.tolist() == sorted(ring, key=lambda i: -similar[i])
        walked = [i for places in hops for i in places]
        pool = walked if form == "released" else seen - {anchor}
        sign = -1 if positives == "easy" else 1
        chosen = sorted(pool, key=lambda i: sign * similar[i])[:5]
        assert set(found.chosen.tolist()) == set(chosen) - {anchor}
        assert len(found.chosen) == len(set(chosen) - {anchor})
        closest = sorted(range(30), key=lambda i: -similar[i])[:20]
        negatives = [i for i in closest if i not in seen]
        assert found.negatives.tolist() == negatives[:6]


@pytest.mark.parametrize("positives", ["hard", "easy"])
def test_the_loss_is_that_of_what_is_shown(make_problem, positives: str) -> None:
    problem = make_problem(3, num_examples=40, num_neighbors=3)
    options = {"background_size": 25, "positives": positives}
    bank = problem.bank / np.linalg.norm(problem.bank, axis=1, keepdims=True)
    bank = bank.astype(np.float32)  # as after a first visit
    anchors, tau = np.array([3, 30]), 0.3
    of = functools.partial(invp_losses, num_hard=5, temperature=tau, **options)
    losses = jax.jit(of)(bank[anchors], anchors, bank, problem.graph)
    propagation = np.asarray(losses.propagation).tolist()
    for anchor, expected in zip(anchors, propagation, strict=True):
        similarities = np.array(cosines(bank, anchor))
        found = reach(
            similarities,
            problem.graph,
            anchor,
            options=OPTIONS._replace(**options),
            num_negatives=40,
        )
        weights = np.exp(similarities / tau)
        pulled, pushed = weights[found.chosen].sum(), weights[found.negatives].sum()
        assert -np.log(pulled / (pulled + pushed)) == pytest.approx(expected, rel=1e-4)


def test_who_was_not_visited_reaches_nothing(make_problem) -> None:
    problem = make_problem(0, num_examples=30)
    graph = np.asarray(init_graph(30, 3))
    similarities = np.array(cosines(problem.bank, 4))
    found = reach(similarities, graph, 4, options=OPTIONS, num_negatives=6)
    assert [len(ids) for ids in found.hops] == [0, 0, 0] and len(found.chosen) == 0
    assert 4 not in found.negatives and len(found.negatives) == 6
