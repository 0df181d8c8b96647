"""Tests that every picture is checked once, and again when it has changed."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.sources import usable
from invariance_propagation.data.sources.usable import Fault, check_pictures, name_some
from invariance_propagation.errors import UserError
from tests.data.mutations import READ_ONLY, whole_files

NAMES = ["0.png", "1.png", "2.png", "3.png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "pictures"
    root.mkdir()
    for i, name in enumerate(NAMES):
        pixels = np.full((6, 7, 3), 20 * i, np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Collects the files that are decoded."""
    found, decode = [], usable.decode

    def noted(content: bytes, **options: bool) -> np.ndarray:
        found.append(content)
        return decode(content, **options)

    monkeypatch.setattr(usable, "decode", noted)
    return found


def test_each_is_decoded_once(folder: Path, decoded: list[bytes]) -> None:
    first = check_pictures(folder, NAMES)
    assert list(first.marks) == NAMES and not first.faults and len(decoded) == 4
    assert check_pictures(folder, NAMES) == first and len(decoded) == 4
    assert check_pictures(folder, NAMES, anew=True) == first and len(decoded) == 8


def test_what_has_changed_and_what_is_bad_is_looked_at_again(
    folder: Path, decoded: list[bytes]
) -> None:
    (folder / "1.png").write_bytes(b"bad")
    first = check_pictures(folder, NAMES)
    assert list(first.marks) == ["0.png", "2.png", "3.png"]
    assert [x.sample_id for x in first.faults] == ["1.png"]
    decoded.clear()
    (folder / "2.png").write_bytes((folder / "3.png").read_bytes())
    second = check_pictures(folder, NAMES)
    assert sorted(decoded) == sorted([b"bad", (folder / "2.png").read_bytes()])
    assert second.marks["2.png"] == first.marks["3.png"] != first.marks["2.png"]
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes())
    assert not check_pictures(folder, NAMES).faults


def test_a_file_that_cannot_be_read_is_a_fault(folder: Path) -> None:
    (folder / "1.png").unlink()
    (fault,) = check_pictures(folder, NAMES).faults
    assert fault.sample_id == "1.png" and "No such file" in fault.reason


def test_whatever_a_decoder_raises_is_a_fault(folder: Path, monkeypatch) -> None:
    def decode(content: bytes, **options: bool) -> None:
        raise SyntaxError("broken PNG file") if content else None

    monkeypatch.setattr(usable, "decode", decode)
    found = check_pictures(folder, NAMES)
    assert [x.reason for x in found.faults] == ["broken PNG file"] * 4


def test_headers_alone_find_what_is_no_picture(
    folder: Path, decoded: list[bytes]
) -> None:
    whole = (folder / "2.png").read_bytes()
    (folder / "1.png").write_bytes(b"bad")
    (folder / "2.png").write_bytes(whole[:50])  # its header is whole
    found = check_pictures(folder, NAMES, how="headers")
    assert [x.sample_id for x in found.faults] == ["1.png"] and not decoded
    # What only the header is known of, is decoded when that is asked for.
    assert [x.sample_id for x in check_pictures(folder, NAMES).faults] == [
        "1.png",
        "2.png",
    ]
    with pytest.raises(UserError, match="data.scan='header': choose one of decode"):
        check_pictures(folder, NAMES, how="header")


def test_work_that_is_interrupted_is_kept(
    folder: Path, decoded: list[bytes], monkeypatch
) -> None:
    monkeypatch.setattr(usable, "AT_ONCE", 2)
    keep = usable.keep_arrays

    def interrupted(path: Path, **arrays: np.ndarray) -> None:
        keep(path, **arrays)
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(usable, "keep_arrays", interrupted)
        check_pictures(folder, NAMES)
    assert len(decoded) == 2
    check_pictures(folder, NAMES)
    assert len(decoded) == 4


def test_a_damaged_cache_is_made_anew(
    folder: Path, decoded: list[bytes], tmp_path: Path
) -> None:
    check_pictures(folder, NAMES)
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-30])
    assert len(check_pictures(folder, NAMES).marks) == 4 and len(decoded) == 8


def test_without_a_place_for_the_cache_all_is_done_again(
    folder: Path, decoded: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "cache").touch()  # a file where a folder should be
    for count in (4, 8):
        assert len(check_pictures(folder, NAMES).marks) == 4 and len(decoded) == count


def test_names_of_any_bytes_are_kept(folder: Path, decoded: list[bytes]) -> None:
    names = [os.fsdecode(b"\xe9.png"), "new\nline.png"]
    for name in names:
        (folder / name).write_bytes((folder / "0.png").read_bytes())
    first = check_pictures(folder, names)
    assert list(first.marks) == names
    assert check_pictures(folder, names) == first and len(decoded) == 2


def test_the_checksum_is_of_all_of_a_small_file_and_of_three_pieces(
    monkeypatch,
) -> None:
    monkeypatch.setattr(usable, "PIECE", 4)
    content = bytes(range(40))
    pieces = content[:4] + content[18:22] + content[36:]
    assert usable.checksum_of(io.BytesIO(content), 40) == zlib.crc32(pieces)
    assert usable.checksum_of(io.BytesIO(content[:12]), 12) == zlib.crc32(content[:12])


def test_a_few_are_named_and_the_rest_counted() -> None:
    faults = [Fault(f"{i}.png", "bad") for i in range(1005)]
    assert name_some(faults) == (
        "0.png: bad; 1.png: bad; 2.png: bad; 3.png: bad; 4.png: bad; and 1,000 more"
    )
    assert name_some(faults[:1]) == "0.png: bad"


@pytest.mark.parametrize("how", ["decode", "headers"])
def test_what_has_become_a_pipe_since_it_was_listed_is_a_fault(
    folder: Path, how: str
) -> None:
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")
    (folder / "2.png").unlink()
    (folder / "2.png").symlink_to("/dev/zero")
    found = check_pictures(folder, NAMES, how=how)
    assert [x.sample_id for x in found.faults] == ["1.png", "2.png"]
    assert {x.reason for x in found.faults} == {"it is not a regular file"}


def test_headers_of_files_that_pillow_closes_are_enough(folder: Path) -> None:
    for kind in READ_ONLY:
        (folder / f"{kind}.png").write_bytes(whole_files(kind)[0])
    names = [f"{kind}.png" for kind in READ_ONLY]
    assert (
        check_pictures(folder, names, how="headers").marks
        == check_pictures(folder, names).marks
    )
    assert not check_pictures(folder, names, how="headers").faults
