"""Tests which clusters are drawn."""

import importlib

import numpy as np

from tests.tiny_run import ROOT


def test_clusters_are_spread_by_size(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    clusters = importlib.import_module("clusters")
    labels = np.repeat([3, 0, 2, 1, -1], [2, 5, 4, 3, 9])
    found = clusters.choose(labels, 2, 3)
    assert [(c, size) for c, size, _ in found] == [(0, 5), (1, 3)]
    assert [ids.tolist() for *_, ids in found] == [[2, 3, 4], [11, 12, 13]]
    assert [c for c, *_ in clusters.choose(labels, 9, 3)] == [0, 2, 1]
