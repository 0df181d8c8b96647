"""Tests that checkpoints are exact, atomic, checked, and loud when something fails."""

import contextlib
import errno
import gc
import importlib
import json
import logging
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from invariance_propagation import devices, parallel
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.store import facts as facts_module
from invariance_propagation.store.checkpoint import (
    DAMAGED,
    Checkpoints,
    NoneWhole,
    steps_in,
)
from invariance_propagation.store.facts import images_of, pack_ids, unpack_ids
from tests import tiny
from tests.odd_names import ODD_NAMES


def state_of(value: float) -> dict[str, Any]:
    bank = np.full((93, 8), value, np.float32)
    return {"bank": bank, "step": np.int32(value), "nested": ({"x": np.arange(3.0)},)}


def target_of(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def save_all(workdir: Path, steps: tuple[int, ...], *, keep: int = 3) -> None:
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(step, state_of(step), {"step": step})
    checkpoints.finish()
    checkpoints.close()


def restore(workdir: Path) -> tuple[int, Any, dict] | None:
    checkpoints = Checkpoints(workdir, keep=3)
    try:
        return checkpoints.restore(target_of(state_of(0)))
    finally:
        checkpoints.close()
        # A restore that failed leaves tasks whose event loop is closed. They complain
        # when they are collected: here, and not in whatever test comes later.
        gc.collect()


# Orbax's complaint, which the tests of damage provoke.
ORBAX_NOISE = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_all(tmp_path, (1, 2, 3, 4), keep=2)
    step, state, facts = restore(tmp_path)
    assert step == 4 and facts["step"] == 4
    jax.tree.map(np.testing.assert_array_equal, state, state_of(4))
    assert {x.name for x in (tmp_path / "checkpoints").iterdir()} == {"3", "4"}


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new", keep=1)
    assert checkpoints.facts() is None
    assert checkpoints.restore(target_of(state_of(0))) is None
    assert not (tmp_path / "new").exists()


def test_arrays_may_change_after_save_returns(tmp_path: Path) -> None:
    """Donates the buffers in the next step while Orbax still writes."""
    runner = devices.make_runner("pmap", 2)
    parts = tiny.make_parts(parallel.AXIS)
    step, state = tiny.start(runner, parts)
    images = runner.put(parts.images, parallel.REPLICATED)
    checkpoints = Checkpoints(tmp_path, keep=1)
    for number, indices in enumerate(tiny.batches(6)):
        state, _ = step(state, runner.put(indices, parallel.SHARDED), images, {})
        if number == 2:
            host = runner.fetch(state, parts.spec, tiny.NUM_EXAMPLES)
            kept = jax.tree.map(np.copy, host)
            checkpoints.save(3, host, {})
    checkpoints.finish()
    shapes = runner.shapes(state, parts.spec, tiny.NUM_EXAMPLES)
    _, restored, _ = checkpoints.restore(shapes)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, kept)
    assert restored.memory.bank.shape == (tiny.NUM_EXAMPLES, 8)


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("mode", devices.MODES)
def test_any_number_of_devices_restores_it(
    tmp_path: Path, mode: str, num_devices: int
) -> None:
    state, _ = tiny.run_mapped("pmap", 2, 2)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(2, state, {})
    checkpoints.finish()
    runner = devices.make_runner(mode, num_devices)
    parts = tiny.make_parts(parallel.AXIS)
    fresh = runner.create(parts.init, parts.spec, jax.random.key(0))
    shapes = runner.shapes(fresh, parts.spec, tiny.NUM_EXAMPLES)
    _, arrays, _ = checkpoints.restore(shapes)
    checkpoints.close()
    placed = runner.put(arrays, parts.spec)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), placed) == jax.tree.map(
        lambda x: (x.shape, x.dtype), fresh
    )
    back = runner.fetch(placed, parts.spec, tiny.NUM_EXAMPLES)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "deleted":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)


@ORBAX_NOISE
@pytest.mark.parametrize("how", ["truncated", "deleted", "one bit flipped"])
def test_a_damaged_checkpoint_is_set_aside(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_all(tmp_path, (1, 2))
    data = [x for x in (tmp_path / "checkpoints" / "2").rglob("d/*") if x.is_file()]
    damage(max(data, key=lambda path: path.stat().st_size), how)
    with caplog.at_level(logging.WARNING):
        step, state, _ = restore(tmp_path)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, state, state_of(1))
    assert "step 2 is damaged" in caplog.text
    assert (tmp_path / DAMAGED / "2").is_dir()
    # The step can be taken and saved again.
    save_all(tmp_path, (2,))
    assert restore(tmp_path)[0] == 2


@ORBAX_NOISE
def test_damage_to_all_is_no_fresh_start_and_nothing_is_moved(tmp_path: Path) -> None:
    save_all(tmp_path, (1, 2))
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        with pytest.raises(NoneWhole, match="no checkpoint .* is whole "):
            restore(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@ORBAX_NOISE
def test_a_bit_of_the_facts_that_flips_is_damage(tmp_path: Path) -> None:
    save_all(tmp_path, (1, 2))
    path = tmp_path / "checkpoints" / "2" / "facts" / "metadata"
    whole = path.read_bytes()
    checkpoints = Checkpoints(tmp_path, keep=3)
    expected = checkpoints.facts()
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 150, replace=False):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        found = checkpoints.facts()
        # JSON has blanks between its tokens, which mean nothing.
        assert found["step"] == 1 or found == expected, bit
    checkpoints.close()


@ORBAX_NOISE
def test_checkpoints_that_are_swapped_or_renamed_are_damaged(tmp_path: Path) -> None:
    save_all(tmp_path, (1, 2, 3))
    folder = tmp_path / "checkpoints"
    (folder / "3").rename(folder / "other")
    (folder / "2").rename(folder / "3")
    (folder / "other").rename(folder / "2")
    step, state, _ = restore(tmp_path)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, state, state_of(1))
    assert {path.name for path in (tmp_path / DAMAGED).iterdir()} == {"2", "3"}


@ORBAX_NOISE
def test_the_state_of_another_step_is_damage(tmp_path: Path) -> None:
    save_all(tmp_path, (1, 2, 3))
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "3" / "state")
    shutil.copytree(folder / "2" / "state", folder / "3" / "state")
    assert restore(tmp_path)[0] == 2


@ORBAX_NOISE
@pytest.mark.parametrize("which", ["facts", "state"])
@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE]
)
def test_a_machine_that_cannot_read_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, which: str
) -> None:
    save_all(tmp_path, (1, 2))
    before = sorted(tmp_path.rglob("*"))

    def fail(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    if which == "facts":
        monkeypatch.setattr(facts_module, "read_item", fail)
    else:
        monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(TrainingError, match=os.strerror(number)) as caught:
        restore(tmp_path)
    assert "2 cannot be read now" in str(caught.value)
    assert "nothing was moved" in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.undo()
    assert restore(tmp_path)[0] == 2


@ORBAX_NOISE
@pytest.mark.parametrize("free", [0, 1, 2, 3, 4, 6, 8, 12, 16, 24])
def test_too_many_open_files_are_not_damage(tmp_path: Path, free: int) -> None:
    save_all(tmp_path, (1, 2))
    restore(tmp_path)  # loads what is loaded late
    before = sorted(tmp_path.rglob("*"))
    with few_open_files(free):
        try:
            step, _, _ = restore(tmp_path)
        except (TrainingError, UserError) as error:
            step = 2
            assert os.strerror(errno.EMFILE) in str(error)
    assert step == 2
    assert sorted(tmp_path.rglob("*")) == before
    assert restore(tmp_path)[0] == 2


@contextlib.contextmanager
def few_open_files(free: int) -> Iterator[None]:
    """Lets the process open only this many more files."""
    importlib.import_module("tracemalloc")  # as pytest does when something is amiss
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(x) for x in os.listdir("/proc/self/fd"))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + free + 4, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


def test_a_save_that_was_killed_is_ignored(tmp_path: Path) -> None:
    save_all(tmp_path, (1,))
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert restore(tmp_path)[0] == 1


def test_another_shape_names_the_array(tmp_path: Path) -> None:
    save_all(tmp_path, (1,))
    other = state_of(1) | {"bank": np.zeros((93, 16), np.float32)}
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(UserError, match=r"bank.*\[93, 8\].*\[93, 16\]"):
        checkpoints.restore(target_of(other))
    checkpoints.close()
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_a_step_is_not_written_twice(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(5, state_of(5), {})
    with pytest.raises(TrainingError, match="step 5 could not be written"):
        checkpoints.save(5, state_of(5), {})
    checkpoints.close()


def test_what_is_in_the_way_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(TrainingError, match=r"could not be written") as caught:
        checkpoints.save(1, state_of(1), {})
    assert "(File exists)" in str(caught.value) and "disk" not in str(caught.value)


@pytest.mark.parametrize("method", ["finish", "close"])
def test_a_full_disk_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(self: ocp.CheckpointManager) -> None:
        # As TensorStore says it, which knows no OSError.
        raise ValueError(f"RESOURCE_EXHAUSTED: {'x' * 300}: No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state_of(1), {})
    name = {"finish": "wait_until_finished", "close": "close"}[method]
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, name, fail)
        with pytest.raises(TrainingError) as caught:
            getattr(checkpoints, method)()
    assert "(No space left on device): the disk is full; free" in str(caught.value)
    checkpoints.close()


@ORBAX_NOISE
def test_a_save_that_fails_in_the_background_is_noticed_by_looking(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state_of(1), {})
    checkpoints.finish()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The facts fit, which are written first; the arrays do not.
        big = {"bank": np.random.default_rng(0).normal(size=10**6)}
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
        checkpoints.save(5, big, {})
        with pytest.raises(TrainingError) as caught:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                checkpoints.check()  # as after each step
                time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        checkpoints.close()
        gc.collect()
    assert str(caught.value) == (
        f"the checkpoint of step 5 could not be written to {tmp_path}/checkpoints (File "
        "too large): run the same command to continue from what has been saved once that "
        "is fixed"
    )
    assert restore(tmp_path)[0] == 1


def remove_all(workdir: Path) -> None:
    shutil.rmtree(workdir)


def remove_checkpoints(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints")


def put_a_file_there(workdir: Path) -> None:
    shutil.rmtree(workdir)
    workdir.touch()


@pytest.mark.parametrize("do", [remove_all, remove_checkpoints, put_a_file_there])
def test_a_folder_that_is_removed_is_noticed_and_not_made_again(
    tmp_path: Path, do: Callable[[Path], None]
) -> None:
    workdir = tmp_path / "run"
    checkpoints = Checkpoints(workdir, keep=3)
    checkpoints.save(1, state_of(1), {})
    checkpoints.finish()
    checkpoints.check()
    do(workdir)
    for look in (checkpoints.check, lambda: checkpoints.save(2, state_of(2), {})):
        with pytest.raises(TrainingError, match="run/checkpoints is gone: it was rem"):
            look()
    checkpoints.close()
    assert not (workdir / "checkpoints").exists()


def test_it_is_known_what_is_on_disk(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.check()
    assert checkpoints.on_disk is None and not list(tmp_path.iterdir())
    for step in (1, 2):
        checkpoints.save(step, state_of(step), {})
        assert checkpoints.newest == step
    checkpoints.finish()
    assert checkpoints.on_disk == 2
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=3)
    again.restore(target_of(state_of(0)))
    assert again.on_disk == again.newest == 2
    again.close()


def test_a_folder_that_cannot_be_looked_into_is_no_fresh_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)

    save_all(tmp_path, (1,))
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(TrainingError, match=r"checkpoints cannot be read \(Permission"):
        Checkpoints(tmp_path, keep=1).facts()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_workdir_may_have_any_name(tmp_path: Path, name: str) -> None:
    # What a pattern would find in its stead.
    (tmp_path / "axb").mkdir()
    (tmp_path / "runs1").mkdir()
    save_all(tmp_path / name, (1, 2, 3, 4), keep=2)
    step, state, facts = restore(tmp_path / name)
    assert step == facts["step"] == 4
    jax.tree.map(np.testing.assert_array_equal, state, state_of(4))
    assert {x.name for x in (tmp_path / name).iterdir()} == {"checkpoints"}
    assert steps_in(tmp_path / name) == [4, 3]
    assert not list((tmp_path / "axb").iterdir())


def test_only_a_number_as_it_is_written_names_a_step(tmp_path: Path) -> None:
    for name in ("0", "7", "30", "²", "020", "-3", "4_", "1.5", "٣"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert steps_in(tmp_path) == [30, 7, 0]


def test_the_folder_is_let_go(tmp_path: Path) -> None:
    def opened() -> set[str]:
        links = Path("/proc/self/fd").iterdir()
        return {os.readlink(link) for link in links if link.is_symlink()}

    checkpoints = Checkpoints(tmp_path / "a[1]", keep=1)
    checkpoints.save(1, state_of(1), {})
    assert str(tmp_path / "a[1]") in opened()
    checkpoints.close()
    assert str(tmp_path / "a[1]") not in opened()


def test_facts_are_json(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state_of(1), {"window": {"count": 1, "sums": {"loss": 0.1}}})
    checkpoints.finish()
    facts = checkpoints.facts()
    checkpoints.close()
    assert facts["window"]["sums"]["loss"] == 0.1
    assert json.dumps(facts)


def test_a_checkpoint_knows_which_image_a_row_is_of(tmp_path: Path) -> None:
    ids = ["a/1.png", "b/\u00e4\n2.png"] + [f"a.array_record__{i}" for i in range(9999)]
    checkpoints = Checkpoints(tmp_path, keep=3)
    packed = pack_ids(ids)
    assert unpack_ids(packed) == ids and len(packed) < 40_000
    checkpoints.save(1, state_of(1), {"step": 1, "sample_ids": packed})
    checkpoints.finish()
    facts = checkpoints.facts()
    checkpoints.close()
    assert images_of(facts, "sample").ids == ids
    assert images_of(facts, "held_out") is None
