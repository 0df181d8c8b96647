"""Tests what counts as changed between two sets of images."""

import numpy as np
import pytest

from invariance_propagation.data.changes import GONE, Changes, Known, compare


def known(text: str, *, contents: bool = True) -> Known:
    """Parses 'a1 b2': names of one letter, contents of one digit."""
    words = text.split()
    checksums = np.array([int(word[1]) for word in words], np.uint32)
    return Known([word[0] for word in words], checksums if contents else None)


@pytest.mark.parametrize(
    ("before", "now", "rows", "said"),
    [
        ("a1 b2", "a1 b2 c3", [0, 1, GONE], "1 added (c)"),
        ("a1 b2 c3", "a1 c3", [0, 2], "1 gone (b)"),
        ("a1 b2", "a1 c2", [0, 1], "1 renamed (b -> c)"),
        ("a1 b2", "a1 b3", [0, GONE], "1 changed (b)"),
        ("a1 b2", "b2 a1", [1, 0], "the same images in another order"),
        # Two that have changed places are renamed, not changed.
        ("a1 b2", "a2 b1", [1, 0], "2 renamed (b -> a, a -> b)"),
        # All numbers move up: the contents tell.
        ("a1 b2 c3", "a2 b3 c4", [1, 2, GONE], "1 added (c), 1 gone (a), "),
        # What has the name now is new, and the old content is elsewhere.
        ("a1", "a2 b1", [GONE, 0], "1 added (a), 1 renamed (a -> b)"),
        # Copies: each row goes to one image.
        ("a1 b1", "c1", [0], "1 gone (b), 1 renamed (a -> c)"),
        ("a1", "a1 b1", [0, GONE], "1 added (b)"),
        ("a1", "b2", [GONE], "1 added (b), 1 gone (a)"),
    ],
)
def test_contents_go_before_names(
    before: str, now: str, rows: list[int], said: str
) -> None:
    changes = compare(known(before), known(now))
    assert changes.rows.dtype == np.int32 and changes.rows.tolist() == rows
    assert str(changes).startswith(said)


@pytest.mark.parametrize("known_before", [True, False])
def test_names_alone_where_contents_are_not_known(known_before: bool) -> None:
    before = known("a1 b2", contents=known_before)
    changes = compare(before, known("a9 c2", contents=not known_before))
    assert changes.rows.tolist() == [0, GONE]
    assert str(changes) == "1 added (c), 1 gone (b); compared by names only"
    # A digest has told that it is another set: what stays the same is not known.
    changes = compare(before, known("a1 b2", contents=not known_before))
    assert changes.rows.tolist() == [GONE, GONE]
    assert str(changes) == "2 changed (a, b); compared by names only"


def test_the_first_few_are_named_in_one_line() -> None:
    before = Known(
        [f"{i}\n.png" for i in range(2000)], np.arange(2000, dtype=np.uint32)
    )
    changes = compare(before, Known(["x"], np.array([5000], np.uint32)))
    expected = "1 added (x), 2,000 gone (0\\n.png, 1\\n.png, 2\\n.png, ...)"
    assert str(changes) == expected


def test_every_row_is_what_it_was() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        names = random.permutation(12)
        first, second = (random.choice(names, size, replace=False) for size in (8, 9))
        old, new = (random.integers(6, size=len(x)) for x in (first, second))
        before = Known([str(x) for x in first], old.astype(np.uint32))
        now = Known([str(x) for x in second], new.astype(np.uint32))
        changes = compare(before, now)
        kept = changes.rows != GONE
        assert len(set(changes.rows[kept])) == kept.sum()
        np.testing.assert_array_equal(new[kept], old[changes.rows[kept]])
        # As many as can be kept are.
        most = sum(min(np.sum(old == x), np.sum(new == x)) for x in range(6))
        assert kept.sum() == most
        assert_adds_up(changes, len(first), len(second))


def assert_adds_up(changes: Changes, before: int, now: int) -> None:
    kept = int(np.sum(changes.rows != GONE))
    assert kept + len(changes.added) + len(changes.changed) == now
    assert kept + len(changes.removed) + len(changes.changed) == before
