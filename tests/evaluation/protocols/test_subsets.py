"""Lists of labels: as many per class as the authors' code takes, fixed by the seed."""

import math
from pathlib import Path

import numpy as np
import pytest

from invariance_propagation.evaluation.protocols.subsets import (
    FOLDER,
    draw_share,
    list_digest,
    write_list,
)

LABELS = np.random.default_rng(0).choice(
    [0, 2, 3, 4], p=[0.5, 0.3, 0.19, 0.01], size=700
)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_each_class_gives_its_share_rounded_up(share: float) -> None:
    rows = draw_share(LABELS, share, seed=1)
    assert (np.diff(rows) > 0).all()
    for c in set(LABELS):
        expected = math.ceil(share * (LABELS == c).sum() - 1e-9)
        assert (LABELS[rows] == c).sum() == expected


def test_what_is_three_is_not_four() -> None:
    # 0.1 * 30 is 3.0000000000000004 in some orders of computation; ceil makes it 4.
    assert len(draw_share(np.zeros(30, int), 0.1, seed=0)) == 3


def test_a_seed_is_a_list() -> None:
    one, again, other = (draw_share(LABELS, 0.1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert set(one) != set(other)
    # Fixed for good: a list that has been published must not change.
    found = draw_share(np.arange(40) % 4, 0.1, seed=0)
    assert list_digest(found.tolist()) == "a11562420718caef"


def test_every_image_may_be_drawn() -> None:
    labels = np.zeros(20, int)
    seen = set(np.concatenate([draw_share(labels, 0.2, seed=s) for s in range(60)]))
    assert seen == set(range(20))


@pytest.mark.parametrize("ids", [None, [f"{i}.png" for i in range(700)]])
def test_a_list_is_kept_with_its_digest(tmp_path: Path, ids) -> None:
    rows = draw_share(LABELS, 0.01, seed=0)
    path = write_list(rows, ids, tmp_path, "some-1pct-seed0")
    digest = list_digest(rows.tolist())
    assert path == tmp_path / FOLDER / f"some-1pct-seed0-{digest}.txt"
    assert list(path.parent.iterdir()) == [path]
    lines = path.read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == rows.tolist()
    if ids:
        assert [line.split()[1] for line in lines] == [f"{i}.png" for i in rows]
    assert write_list(rows, ids, tmp_path, "some-1pct-seed0") == path
