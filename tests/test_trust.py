"""Files of strangers are read, and nothing in them is run or believed to be small."""

import ast
import gzip
import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs import embed as embed_config
from configs import evaluate as evaluate_config
from invariance_propagation.data.sources import idx
from invariance_propagation.data.sources.usable import check_pictures
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation.cards import read_card
from invariance_propagation.evaluation.evaluate import evaluate
from invariance_propagation.evaluation.kept import Damaged, read_blocks, read_facts
from invariance_propagation.files.archives import open_arrays, open_file
from invariance_propagation.files.cache import read_arrays
from invariance_propagation.report.write import write_report
from invariance_propagation.store import checkpoint, damage, weights
from invariance_propagation.store import facts as facts_module
from invariance_propagation.store.facts import pack_ids, unpack_ids
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.store.restore import restore_backbone, restore_encoder
from invariance_propagation.tasks.embed import embed_folder
from invariance_propagation.tasks.export import export
from invariance_propagation.train.journal import METRICS_FILE, read_rows
from invariance_propagation.train.monitor import read_summary
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.resume import failure
from tests.stored_run import store_run
from tests.test_conventions import MODULES, ROOT
from tests.tiny_run import tiny_config

UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch"}


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, place: Path):
        self.place = str(place)

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (self.place,)


def npz_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def claiming(shape: tuple[int, ...], kind: str = "<f4", content: bytes = b"") -> bytes:
    """An .npy file that claims a shape."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def malicious(place: Path) -> dict[str, bytes]:
    """Files that make a folder `place` where they are unpickled."""
    bare = pickle.dumps(Bomb(place))
    array = npy_of(np.array([Bomb(place)], object))
    return {
        "an array of objects": npz_of(facts__npy=array, names__npy=array),
        "a pickle for an array": npz_of(facts__npy=bare, names__npy=bare),
        "an array alone": array,
        "a pickle": bare,
        "an old pickle": pickle.dumps(Bomb(place), protocol=0),
        "PyTorch's": npz_of(**{"archive/data__pkl": bare, "archive/version": b"3"}),
        "a shape too large": npz_of(facts__npy=claiming((2**40,))),
        "a shape that overflows": npz_of(facts__npy=claiming((2**62, 2**62, 2**62))),
        "a shape below 0": npz_of(facts__npy=claiming((-1, -4), content=bytes(16))),
        "a type without a size": npz_of(facts__npy=claiming((2**40,), "|S0")),
        "no size": npz_of(facts__npy=b""),
    }


KINDS = tuple(malicious(Path()))


@pytest.mark.parametrize("kind", KINDS)
def test_no_reader_runs_what_is_in_a_file(kind: str, tmp_path: Path) -> None:
    content = malicious(tmp_path / "ran")[kind]
    for name in ("a.npz", "a.safetensors", "a.pt", "a.pth", "a"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as raised:
            restore_backbone(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)
    assert read_arrays(tmp_path / "a.npz") == {}
    with pytest.raises(Damaged):
        read_facts(tmp_path / "a.npz")
    with pytest.raises(Damaged):
        list(read_blocks(tmp_path / "a.npz", "features"))
    with pytest.raises(UserError, match=r"a\.npz is damaged"):
        idx.read_idx(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()
    # The bomb is one: whoever unpickles it has a folder.
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.npz", "w.safetensors"])
def test_pytorchs_files_are_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(malicious(tmp_path / "ran")["PyTorch's"])
    with pytest.raises(
        UserError, match=r"it is a pickle.*safetensors\.torch\.save_file"
    ):
        restore_backbone(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    told = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps(told).encode().ljust(0x280)
    array = np.array([1, 2], np.float32)
    content = struct.pack("<Q", len(header)) + header + array.tobytes()
    assert content.startswith(pickle.dumps(None, protocol=2)[:2])
    (tmp_path / "w.safetensors").write_bytes(content)
    found = weights.read_weights(tmp_path / "w.safetensors")["a"]
    np.testing.assert_array_equal(found, array)


def test_a_cache_of_another_kind_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    expected = check_pictures(tmp_path, ["a.png"])
    (path,) = tmp_path.glob("cache/*/*.npz")
    names, seen = np.frombuffer(b"a.png", np.uint8), np.zeros((1, 4), np.int64)
    for arrays in (
        {"other": names},
        {"names": names, "seen": np.array([["x", "y", "z", "w"]])},
        {"names": names, "seen": np.full((1, 4), np.inf)},
        {"names": names, "seen": seen[:, :2]},
        {"names": names, "seen": np.zeros((7, 4), np.int64)},
        {"names": names, "seen": np.int64(3)},
    ):
        np.savez(path, **arrays)
        assert check_pictures(tmp_path, ["a.png"]) == expected
    for content in malicious(tmp_path / "ran").values():
        path.write_bytes(content)
        assert check_pictures(tmp_path, ["a.png"]) == expected
    assert not (tmp_path / "ran").exists()


# Sizes.


def test_what_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(2**18, np.float32))
    assert path.stat().st_size < 10_000
    assert weights.read_weights(path)["a"].nbytes == 2**20
    monkeypatch.setattr(weights, "MAX_BYTES", 2**20)
    with pytest.raises(UserError, match="unpacks to 1,048,.* more than 1,048,576"):
        weights.read_weights(path)
    # A cache, and features that are kept, are not packed at all.
    assert read_arrays(path) == {}
    np.savez(path, a=np.zeros(9))
    assert read_arrays(path)["a"].shape == (9,)


def test_a_size_that_lies_is_not_read_beyond(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    whole = claiming((2**20,), "|u1", bytes(2**20))
    content = npz_of(a__npy=whole).replace(
        struct.pack("<I", len(whole)), struct.pack("<I", 200)
    )
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        weights.read_weights(path)
    assert read_arrays(path) == {}


def test_ids_of_a_checkpoint_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"kind/{i}.png" for i in range(100)]
    assert unpack_ids(pack_ids(ids), count=100) == unpack_ids(pack_ids(ids)) == ids
    with pytest.raises(TrainingError, match="100 for 99 images"):
        unpack_ids(pack_ids(ids), count=99)
    many = pack_ids([""] * 2**22)
    with pytest.raises(TrainingError, match="4,194,304 for 100 images"):
        unpack_ids(many, count=100)
    monkeypatch.setattr(facts_module, "MAX_IDS_BYTES", 2**20)
    for packed in (many, pack_ids(ids)[:-8]):
        with pytest.raises(TrainingError, match="more than 1,048,576 bytes"):
            unpack_ids(packed)
    for packed in ("no base64!", pack_ids(ids)[8:]):
        with pytest.raises(TrainingError, match="ids of its images are damaged"):
            unpack_ids(packed)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (struct.pack(">BBBB4I", 0, 0, 8, 4, *4 * [2**32 - 1]), "claims 3.* bytes"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2**30 + 1), "claims 1,073,741,825 bytes"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 5) + bytes(2**22), "cannot reshape"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2**30) + bytes(4), "cannot reshape"),
        (struct.pack(">BBBB", 0, 0, 8, 255), "requires a buffer"),
        (struct.pack(">BBBB", 0, 0, 14, 1), "element type 14"),
        (b"", "requires a buffer"),
    ],
)
def test_idx_files_with_absurd_sizes_are_refused(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=f"a.gz is damaged .*{expected}"):
        idx.read_idx(tmp_path / "a.gz")


# Checkpoints.


def change_facts(folder: Path, change: Callable[[dict], None]) -> None:
    """Writes other facts into a checkpoint, with the digest that belongs to them."""
    (path,) = (x for x in (folder / "facts").iterdir() if x.name == "metadata")
    facts = json.loads(path.read_text())["facts"]
    change(facts)
    stored = {"facts": facts, "digest": facts_module.digest_of_facts(facts)}
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dtype", "object", "Python objects among its arrays"),
        ("dtype", "O,O", "Python objects among its arrays"),
        ("shape", [2**20, 2**20], "its arrays take 4,398 GB"),
        ("shape", [-1], ""),
        ("dtype", "no type", ""),
    ],
)
def test_a_checkpoint_with_absurd_arrays_is_refused(
    field: str, value: Any, expected: str, tmp_path: Path
) -> None:
    store_run(tmp_path, (3,))

    def change(facts: dict) -> None:
        name = next(x for x in facts["arrays"] if "kernel" in x and "params" in x)
        facts["arrays"][name][field] = value

    change_facts(tmp_path / checkpoint.FOLDER / "3", change)
    with pytest.raises(TrainingError, match=f"cannot be read.*{expected}"):
        restore_encoder(tmp_path)


def test_a_pickle_among_a_checkpoints_files_is_not_run(tmp_path: Path) -> None:
    store_run(tmp_path / "run", (3,))
    folder = tmp_path / "run" / checkpoint.FOLDER / "3"
    bare = pickle.dumps(Bomb(tmp_path / "ran"))
    files = sorted(x for x in folder.rglob("*") if x.is_file())
    assert len(files) > 5
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(bare)
        try:
            restore_encoder(tmp_path / "run")
        except TrainingError:
            pass
        path.write_bytes(whole)
    restore_encoder(tmp_path / "run")
    # As Orbax's older checkpoints have it: all arrays in one file.
    (folder / "state" / "checkpoint").write_bytes(bare)
    (folder / "state" / "_METADATA").unlink()
    with pytest.raises(TrainingError):
        restore_encoder(tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_no_task_imports_what_a_checkpoint_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    workdir, pictures = tmp_path / "run", tmp_path / "pictures"
    store_run(workdir, (3,), method={"name": "stranger:method"}, data={"num_train": 12})
    folder = workdir / checkpoint.FOLDER / "3"
    change_facts(folder, lambda facts: facts.update(batch_size=4))
    (workdir / METRICS_FILE).write_text('{"step": 3, "epoch": 0, "loss": 1.0}\n')
    pictures.mkdir()
    for i in range(3):
        Image.new("L", (9, 9), 50 * i).save(pictures / f"{i}.png")
    export(checkpoint=str(workdir), what="backbone", format="npz", output="")
    write_report(workdir=str(workdir), output="")
    config = embed_config.get_config().to_dict()
    config |= {"checkpoint": str(workdir), "folder": str(pictures), "num_devices": 1}
    del config["task"]
    embed_folder(**config)
    config = evaluate_config.get_config().to_dict()
    config |= {"checkpoint": str(workdir), "protocols": "knn", "num_devices": 1}
    del config["task"]
    evaluate(**config)
    assert "stranger" not in sys.modules and not (tmp_path / "ran").exists()


def test_a_set_that_a_checkpoint_names_is_not_fetched(tmp_path: Path) -> None:
    data = {"name": "tfds:stranger:pictures", "folder": str(tmp_path)}
    store_run(tmp_path / "run", (3,), data=data)
    config = evaluate_config.get_config().to_dict()
    config |= {"checkpoint": str(tmp_path / "run"), "protocols": "knn"}
    del config["task"]
    with pytest.raises(UserError, match=r"add --config\.data\.name=tfds:stranger:pic"):
        evaluate(**config)


# The code.


@pytest.mark.parametrize("module", MODULES)
def test_no_module_unpickles(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("np.load", "np.fromfile", "np.memmap")
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "__import__")
        assert not UNPICKLERS & {name.split(".")[0] for name in names}


def test_the_readme_says_that_configs_are_code() -> None:
    assert "is code" in (ROOT / "README.md").read_text()


def test_pipes_are_not_opened_even_if_they_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(OSError, match="not a regular file"):
        open_file(tmp_path / "a.npz")
    (tmp_path / "b.npz").touch()
    before = os.stat(tmp_path / "b.npz")
    monkeypatch.setattr(os, "stat", lambda path, **options: before)
    with pytest.raises(OSError, match="not a regular file"):
        open_file(tmp_path / "a.npz")
    with pytest.raises(zipfile.BadZipFile), open_arrays(tmp_path / "b.npz"):
        pass


def test_facts_that_no_run_has_written_are_one_line(tmp_path: Path) -> None:
    store_run(tmp_path / "run", (3,))
    folder = tmp_path / "run" / "checkpoints" / "3"
    facts = facts_module.read_facts(folder)
    damage.check_noted(facts, folder)
    for name in damage.NOTED:
        for value in (None, [1], True):
            changed = json.loads(json.dumps(facts))
            *outer, last = name.split(".")
            section = changed
            for key in outer:
                section = section[key]
            section[last] = value
            with pytest.raises(UserError, match=rf" as {re.escape(name)} of its run"):
                damage.check_noted(changed, folder)
    with pytest.raises(UserError, match=r"as config\.seed of its run"):
        damage.check_noted(facts | {"config": "none"}, folder)


def test_a_checkpoint_of_another_program_is_refused_by_every_reader(
    tmp_path: Path,
) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    parts = ("params", "batch_stats", "memory")
    checkpoints.save(3, {part: {"x": np.zeros(2)} for part in parts}, {})
    checkpoints.close()
    for read in (
        lambda: restore_encoder(tmp_path),
        lambda: restore_memory(tmp_path),
        lambda: train_and_evaluate(tiny_config(), str(tmp_path)),
    ):
        with pytest.raises(UserError, match="as dataset of its run, so this program"):
            read()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (METRICS_FILE, lambda path: read_rows(path.parent)),
        ("summary.json", lambda path: read_summary(path.parent)),
        ("card.json", read_card),
        (failure.FILE, lambda path: failure.read(path.parent)),
    ],
)
def test_a_pipe_in_a_workdir_is_not_waited_for(
    name: str, read: Callable, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises((OSError, UserError), match="not a regular file"):
        read(tmp_path / name)
