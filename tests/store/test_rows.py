"""Tests files of rows: any rows come back as they were, and no damage goes unnoticed."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.errors import TrainingError
from invariance_propagation.store import rows

# Of 13 rows three processes have 5, 5 and 3, and a fourth has none.
STARTS = (0, 5, 10, 13, 13)
ARRAYS = {
    ".memory.bank": np.random.default_rng(0).normal(size=(13, 4)).astype(np.float32),
    ".memory.graph": np.arange(39, dtype=np.int32).reshape(13, 3),
    ".memory.half": np.arange(13).astype(jnp.bfloat16),
}


def write_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Writes as four processes do; returns what the facts note."""
    pieces = []
    for process in (3, 0, 2, 1):
        start, stop = STARTS[process], STARTS[process + 1]
        own = {name: x[start:stop] for name, x in ARRAYS.items()}
        pieces += rows.write_rows(
            folder, own, process=process, num_processes=4, first=start
        )
    return rows.describe_rows(pieces)


def test_any_rows_come_back(tmp_path: Path) -> None:
    arrays = write_all(tmp_path)
    assert rows.in_files(arrays) == set(ARRAYS)
    for name, x in ARRAYS.items():
        assert arrays[name]["shape"] == list(x.shape)
        np.testing.assert_array_equal(rows.read_rows(tmp_path, arrays[name]), x)
        for start in range(14):
            for stop in range(start, 14):
                found = rows.read_rows(tmp_path, arrays[name], slice(start, stop))
                assert found.dtype == x.dtype
                np.testing.assert_array_equal(found, x[start:stop])


def test_files_without_wanted_rows_are_not_read(tmp_path: Path) -> None:
    arrays = write_all(tmp_path)
    for path in tmp_path.glob("[023]_*"):
        path.unlink()
    x = ARRAYS[".memory.bank"]
    found = rows.read_rows(tmp_path, arrays[".memory.bank"], slice(6, 10))
    np.testing.assert_array_equal(found, x[6:10])
    with pytest.raises(rows.MissingRows, match="beside the folder of the step"):
        rows.read_rows(tmp_path, arrays[".memory.bank"], slice(6, 11))


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    fact = write_all(tmp_path)[".memory.bank"]
    path = tmp_path / "1_of_4_0"
    content = path.read_bytes()
    other = (tmp_path / "0_of_4_0").read_bytes()
    damaged = [b"", content[:-1], content[: len(content) // 2], content + b"x", other]
    for place in range(len(content)):
        for bit in (0, 7):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            damaged.append(bytes(flipped))
    for bytes_of_file in damaged:
        path.write_bytes(bytes_of_file)
        with pytest.raises(ValueError, match="1_of_4_0 has changed"):
            rows.read_rows(tmp_path, fact)
    path.write_bytes(content)
    np.testing.assert_array_equal(
        rows.read_rows(tmp_path, fact), ARRAYS[".memory.bank"]
    )


def test_facts_that_do_not_fit_the_files_are_refused(tmp_path: Path) -> None:
    fact = write_all(tmp_path)[".memory.bank"]
    gap = [piece for piece in fact["rows"] if piece["first"] != 5]
    with pytest.raises(ValueError, match="has row 5"):
        rows.read_rows(tmp_path, fact | {"rows": gap})
    with pytest.raises(ValueError, match="has row 13"):
        rows.read_rows(tmp_path, fact | {"shape": [14, 4]})
    # A file outside of the folder is not opened, whatever the facts say.
    (tmp_path / "inner").mkdir()
    stranger = [piece | {"file": f"../{piece['file']}"} for piece in fact["rows"]]
    with pytest.raises(rows.MissingRows, match="beside the folder of the step"):
        rows.read_rows(tmp_path / "inner", fact | {"rows": stranger})


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    fact = write_all(tmp_path)[".memory.bank"]
    (tmp_path / "1_of_4_0").unlink()
    os.mkfifo(tmp_path / "1_of_4_0")
    with pytest.raises(ValueError, match="a pipe"):
        rows.read_rows(tmp_path, fact)


def test_rows_without_a_checkpoint_are_removed(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write_all(rows.folder_of(tmp_path, step))
    (tmp_path / "5").mkdir()
    rows.forget_rows(tmp_path, keep={5, 15})
    assert {x.name for x in tmp_path.iterdir()} == {"5", "rows_5", "rows_15"}
    assert rows.paths_of(tmp_path, 5) == [tmp_path / "rows_5", tmp_path / "5"]
    assert rows.paths_of(tmp_path, 6) == [tmp_path / "6"]


def test_what_the_first_process_does_not_see_is_named(tmp_path: Path) -> None:
    pieces = rows.write_rows(tmp_path, ARRAYS, process=1, num_processes=2, first=0)
    rows.check_seen(tmp_path, pieces)
    (tmp_path / "1_of_2_2").unlink()
    with pytest.raises(TrainingError, match="1_of_2_2.* all processes share"):
        rows.check_seen(tmp_path, pieces)
