"""Features in a file: what was written is read, or damage is named."""

import collections
from pathlib import Path

import numpy as np
import pytest

from invariance_propagation.evaluation.kept import (
    Block,
    Damaged,
    Keeper,
    read_blocks,
    read_facts,
)


def block(start: int, count: int = 3, head: bool = True) -> Block:
    random = np.random.default_rng(start)
    features, embeddings = (random.normal(size=(count, d)).astype("f") for d in (4, 2))
    rows = np.arange(start, start + count)
    return Block(rows, features, embeddings if head else None)


def write(path: Path, blocks: list[Block], said: list[str], num_bytes: int = 0) -> bool:
    with Keeper(path, num_bytes, said.append) as keeper:
        for part in blocks:
            keeper.add(part)
        return keeper.finish({"step": 7})


def test_it_comes_back(tmp_path: Path) -> None:
    path, said = tmp_path / "new" / "x.npz", []
    assert read_facts(path) is None
    blocks = [block(0), block(3, 1)]
    assert write(path, blocks, said) and not said
    assert read_facts(path) == {"step": 7, "blocks": 2}
    for name in ("features", "embeddings"):
        pairs = list(read_blocks(path, name))
        assert len(pairs) == 2
        for expected, (rows, vectors) in zip(blocks, pairs, strict=True):
            np.testing.assert_array_equal(rows, expected.rows)
            np.testing.assert_array_equal(vectors, getattr(expected, name))
    # Anybody's NumPy reads it.
    assert "features-1" in np.load(path, allow_pickle=False)
    assert list(path.parent.iterdir()) == [path]


def test_without_a_head_there_are_no_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, [block(0, head=False)], [])
    with pytest.raises(Damaged, match="embeddings-0"):
        list(read_blocks(path, "embeddings"))


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    write(path := tmp_path / "x.npz", [block(0), block(3)], [])
    content, expected = (
        path.read_bytes(),
        [x.tolist() for _, x in read_blocks(path, "features")],
    )
    noticed = collections.Counter()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            facts = read_facts(path)
            found = [x.tolist() for _, x in read_blocks(path, "features")]
        except Damaged:
            noticed["named"] += 1
        else:
            # It was in what does not matter, such as a date or the other part.
            noticed["harmless"] += 1
            assert found == expected and facts == {"step": 7, "blocks": 2}, at
    assert noticed["named"] > 100
    for end in range(0, len(content), 50):
        path.write_bytes(content[:end])
        with pytest.raises(Damaged):
            read_facts(path)


def test_unfinished_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Keeper(tmp_path / "x", 0, print) as keeper:
        keeper.add(block(0))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    assert not write(tmp_path / "file" / "x.npz", [block(0), block(3)], said)
    assert len(said) == 1 and "cannot be written (" in said[0]
    # More than any disk holds.
    assert not write(tmp_path / "x.npz", [block(0)], said, num_bytes=10**20)
    assert len(said) == 2 and "it takes 100,000,000,000,000.0 MB" in said[1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_full_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    write_array = np.lib.format.write_array

    def fails(file, array, **options):
        if array.size == 5:
            raise OSError(28, "No space left on device")
        write_array(file, array, **options)

    monkeypatch.setattr(np.lib.format, "write_array", fails)
    write(tmp_path / "x.npz", [block(0)], said)
    before = (tmp_path / "x.npz").read_bytes()
    assert not write(tmp_path / "x.npz", [block(0), block(3, 5), block(8)], said)
    assert len(said) == 1 and "No space left" in said[0]
    # What was there stays.
    assert (tmp_path / "x.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
