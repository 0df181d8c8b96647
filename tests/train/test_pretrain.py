"""Whole runs: they learn, resume exactly, stop in time, and say what they do."""

import errno
import gc
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import digits
from invariance_propagation.data import sources
from invariance_propagation.errors import Stopped, TrainingError, UserError
from invariance_propagation.store.checkpoint import FOLDER, steps_in
from invariance_propagation.tasks import replay
from invariance_propagation.train import build, monitor, pretrain
from invariance_propagation.train.journal import MetricsLog, read_rows
from invariance_propagation.train.monitor import read_summary, write_summary
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.resume import failure
from invariance_propagation.train.run import Run, init_state
from invariance_propagation.train.step import train_step
from tests.tiny_run import (
    build_once,
    final_state,
    rows_without_times,
    tiny_config,
)

# Orbax's complaint about what is damaged.
ORBAX_NOISE = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("uninterrupted")
    train_and_evaluate(tiny_config(), str(workdir))
    return workdir


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Calls `action(state, metrics)` after the given step of the next run."""

    def broken_build(config: Any) -> Run:
        run = build_once(config)

        def step_and_break(state: Any, *given: Any) -> Any:
            number = int(state.step)
            state, metrics = run.step(state, *given)
            return action(state, metrics) if number == step else (state, metrics)

        return run._replace(step=step_and_break)

    monkeypatch.setattr(pretrain, "build", broken_build)


def same_run(workdir: Path, other: Path, *, gathered_from: int = 0) -> None:
    """Compares two runs; before the step `gathered_from`, one has no kNN by the bank."""
    step, state = final_state(workdir)
    other_step, other_state = final_state(other)
    assert step == other_step == 32
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    expected = rows_without_times(other)
    for row in expected:
        if row["step"] < gathered_from:
            row.pop("knn_bank", None)
    assert rows_without_times(workdir) == expected


@pytest.mark.parametrize("step", [3, 17])
def test_a_crash_in_the_middle_of_an_epoch_changes_nothing(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before the first checkpoint, and in the middle of an epoch and of a row.

    Epochs have 8 steps, rows 3, and checkpoints are 5 apart: none coincide.
    """

    def crash(state: Any, metrics: Any) -> None:
        raise RuntimeError("the machine went away")

    break_at(monkeypatch, step, crash)
    with pytest.raises(RuntimeError, match="went away"):
        train_and_evaluate(tiny_config(), str(tmp_path))
    monkeypatch.undo()
    train_and_evaluate(tiny_config(), str(tmp_path))
    same_run(tmp_path, uninterrupted)


def test_a_start_by_itself_is_announced_and_survives_a_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # Slow learning from views that are all alike keeps more neighbours than chance.
    changes = {"method__start": "auto", "method__bank_start": "embeddings"}
    changes |= {"augment__crop_scale": (), "augment__jitter": ()}
    changes |= {f"augment__{name}": 0.0 for name in ("rotation", "shear", "stretch")}
    changes["optimizer__learning_rate"] = 0.0001
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_and_evaluate(tiny_config(**changes), str(whole))
    assert "propagation starts; neighbours kept between" in capsys.readouterr().out
    _, state = final_state(whole, **changes)
    since = int(state.memory.readiness.since)
    assert 8 < since < 32  # after an epoch, in which nothing can be found again
    for row in read_rows(whole):
        if "loss" in row and not row["step"] > since > row["step"] - 3:
            on = row["step"] > since
            assert row["propagation_weight"] == pytest.approx(2.0 if on else 0.0)
    stop = tiny_config(**changes, train__stop_after_steps=since - 2)
    with pytest.raises(Stopped):
        train_and_evaluate(stop, str(parts))
    train_and_evaluate(tiny_config(**changes), str(parts))
    jax.tree.map(np.testing.assert_array_equal, state, final_state(parts, **changes)[1])
    assert rows_without_times(whole) == rows_without_times(parts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    def interrupt(state: Any, metrics: Any) -> Any:
        os.kill(os.getpid(), number)
        return state, metrics

    before = signal.getsignal(number)
    break_at(monkeypatch, 16, interrupt)
    with pytest.raises(Stopped, match="step 17 of 32.*same command") as caught:
        train_and_evaluate(tiny_config(), str(tmp_path))
    assert caught.value.status == 128 + number
    assert signal.getsignal(number) == before
    assert (tmp_path / "checkpoints" / "17").is_dir()
    monkeypatch.undo()
    train_and_evaluate(tiny_config(), str(tmp_path))
    same_run(tmp_path, uninterrupted)


def test_a_signal_leaves_kNN_which_is_measured_later(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take minutes; the state is there, and must not be lost for it."""
    knn, calls = monitor.knn, []

    def interrupt(run: Run, state: Any) -> dict[str, float]:
        calls.append(int(run.runner.local(state.step)))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return knn(run, state)

    monkeypatch.setattr(monitor, "knn", interrupt)
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 16 of 32"):
        train_and_evaluate(tiny_config(), str(tmp_path))
    assert calls == [0, 16]
    assert not any("knn" in row for row in read_rows(tmp_path) if row["step"])
    train_and_evaluate(tiny_config(), str(tmp_path))
    assert calls == [0, 16, 16, 32]
    same_run(tmp_path, uninterrupted)


def test_a_signal_does_not_wait_for_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_and_interrupt(config: Any) -> Run:
        run = build_once(config)

        def feed(start: int, stop: int) -> Any:
            for step, given in enumerate(run.input.feed(start=start, stop=stop), start):
                if step == 7:
                    os.kill(os.getpid(), signal.SIGHUP)
                yield given

        return run._replace(input=run.input._replace(feed=feed))

    monkeypatch.setattr(pretrain, "build", build_and_interrupt)
    with pytest.raises(Stopped, match="by SIGHUP at step 7 of 32") as caught:
        train_and_evaluate(tiny_config(), str(tmp_path))
    assert caught.value.status == 128 + signal.SIGHUP
    assert steps_in(tmp_path)[0] == 7


@pytest.mark.parametrize(
    ("name", "value", "step"), [("steps", 11, 11), ("hours", 1e-9, 1)]
)
def test_a_config_may_ask_to_stop(
    uninterrupted: Path, tmp_path: Path, name: str, value: float, step: int
) -> None:
    key = f"train.stop_after_{name}"
    config = tiny_config(**{key.replace(".", "__"): value})
    expected = f"by {key}={value:g} at step {step} of 32.*same command"
    with pytest.raises(Stopped, match=expected) as caught:
        train_and_evaluate(config, str(tmp_path))
    assert caught.value.status == 0
    assert f"--config.{key}=0 to train to the end" in str(caught.value)
    # What would stop again after one step is no advice.
    assert ("run the same command" in str(caught.value)) == (step > 1)
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    if name == "steps":  # so many of each call
        with pytest.raises(Stopped, match="at step 22 of 32"):
            train_and_evaluate(config, str(tmp_path))
    train_and_evaluate(tiny_config(), str(tmp_path))
    same_run(tmp_path, uninterrupted)


def test_kNN_against_the_bank_alone_embeds_no_training_image(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = []

    def noting_build(config: Any) -> Run:
        run = build_once(config)

        def embed(params: Any, batch_stats: Any, images: np.ndarray) -> Any:
            embedded.append(len(images))
            return run.embed(params, batch_stats, images)

        return run._replace(embed=embed)

    monkeypatch.setattr(pretrain, "build", noting_build)
    config = tiny_config(knn__embed_anew=False)
    summary = train_and_evaluate(config, str(tmp_path))
    assert set(embedded) == {450}
    assert summary["knn_trained"] is None
    names = {name for row in read_rows(tmp_path) for name in row if "knn" in name}
    assert names == {"knn_bank"}
    expected = [r["knn_bank"] for r in read_rows(uninterrupted) if "knn_bank" in r]
    found = [r["knn_bank"] for r in read_rows(tmp_path) if "knn_bank" in r]
    assert found == expected


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Lists the names of the programs that are compiled meanwhile."""
    names = []

    def note(event: str, seconds: float, **facts: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_run_traces_and_compiles_its_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    """The epoch in which propagation starts, evaluation and checkpoints included."""
    jax.clear_caches()
    traced = []

    def counted(state: Any, *given: Any, **options: Any) -> Any:
        traced.append(isinstance(state.step, jax.core.Tracer))
        return train_step(state, *given, **options)

    monkeypatch.setattr(build, "train_step", counted)
    monkeypatch.setattr(pretrain, "build", build.build)  # a step of this run alone
    train_and_evaluate(tiny_config(), str(tmp_path))
    assert traced == [True]
    # As pmap calls what it maps: the step, and the pass that embeds for kNN.
    assert compiled.count("jit(_fun)") == 2, compiled


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_another_number_of_devices_goes_on(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def crash(state: Any, metrics: Any) -> None:
        raise RuntimeError("went away")

    break_at(monkeypatch, 12, crash)
    with pytest.raises(RuntimeError):
        train_and_evaluate(tiny_config(parallel="pmap"), str(tmp_path))
    monkeypatch.undo()
    train_and_evaluate(tiny_config(parallel=mode, num_devices=4), str(tmp_path))
    rows, expected = rows_without_times(tmp_path), rows_without_times(uninterrupted)
    for row, right in zip(rows, expected, strict=True):
        assert row.keys() == right.keys()
        # Sums over devices are added in another order. Of embeddings that are nearly the
        # same, that decides which are nearest.
        for name in row:
            if not name.startswith("knn"):
                np.testing.assert_allclose(row[name], right[name], rtol=1e-5)
    (step, state), (last, whole) = final_state(tmp_path), final_state(uninterrupted)
    assert step == last == 32
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), state, whole
    )


@pytest.mark.parametrize("term", ["instance", "propagation", "gradient_norm"])
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    def spoil(state: Any, metrics: Any) -> Any:
        return state, metrics | {term: np.float32("nan")}

    break_at(monkeypatch, 14, spoil)  # the checkpoint of step 15 would hold it
    with pytest.raises(TrainingError, match=f"step 15: {term} is nan"):
        train_and_evaluate(tiny_config(), str(tmp_path))
    assert steps_in(tmp_path) == [10, 5]


def break_weights(state: Any, metrics: Any) -> Any:
    """As an update that is far too large: the loss was computed before it."""
    return state._replace(
        params=jax.tree.map(lambda x: x * 2e30, state.params)
    ), metrics


# By the next loss; by kNN, which comes before that; by a step that is tried at the end.
@pytest.mark.parametrize(
    ("step", "every", "gathers"),
    [(14, 1, True), (14, 15, True), (15, 5, False), (31, 5, True)],
)
def test_a_step_that_breaks_the_weights_is_never_saved(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    every: int,
    gathers: bool,
) -> None:
    config = tiny_config(
        train__checkpoint_every=every, train__gather_checkpoints=gathers
    )
    break_at(monkeypatch, step, break_weights)
    with pytest.raises(TrainingError, match="last good step is") as caught:
        train_and_evaluate(config, str(tmp_path))
    good = max(steps_in(tmp_path))
    assert good <= step and f"last good step is {good}," in str(caught.value)
    (folder,) = tmp_path.glob("failed_step_*")
    facts = failure.read(folder)
    assert facts["good_step"] == good and steps_in(folder) == [good]
    assert (folder / FOLDER / f"rows_{good}").exists() != gathers
    assert facts["step"] - 1 in (step, step + 1) and len(set(facts["rows"])) == 32
    # The same command fails the same way; a replay shows it, and leaves all as it is.
    before = files_of(tmp_path)
    with pytest.raises(TrainingError, match="last good step is") as again:
        train_and_evaluate(config, str(tmp_path))
    assert str(again.value) == str(caught.value)
    assert set(files_of(tmp_path)) == set(before)
    monkeypatch.setattr(replay, "build", pretrain.build)
    assert not replay.replay(config, str(tmp_path))
    assert set(files_of(tmp_path)) == set(before)
    # Once the reason is gone, both pass.
    monkeypatch.undo()
    assert replay.replay(config, str(tmp_path))
    train_and_evaluate(tiny_config(), str(tmp_path))
    same_run(tmp_path, uninterrupted, gathered_from=0 if gathers else good)


def test_a_run_that_is_to_stop_at_a_broken_step_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, 6, break_weights)
    with pytest.raises(TrainingError, match="step 7: .*last good step is 5,"):
        train_and_evaluate(tiny_config(train__stop_after_steps=7), str(tmp_path))
    assert steps_in(tmp_path) == [5, 0]


@pytest.mark.parametrize("after", [6, 11])
def test_a_run_that_has_lost_its_workdir_writes_no_more(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a stop of the machine for so long that another run took over."""
    write, other = MetricsLog.write, '{"pid": 1, "host": "there", "token": "other"}'

    def write_then_lose(log: MetricsLog, row: dict[str, Any]) -> None:
        write(log, row)
        if row["step"] == after:
            (tmp_path / "run.lock").write_text(other)

    monkeypatch.setattr(MetricsLog, "write", write_then_lose)
    with pytest.raises(TrainingError, match="now belongs to process 1 on there"):
        train_and_evaluate(tiny_config(), str(tmp_path))
    assert read_rows(tmp_path)[-1]["step"] == after
    assert max(steps_in(tmp_path)) <= after
    assert (tmp_path / "run.lock").read_text() == other


@pytest.mark.parametrize(
    "name", ["facts/metadata", "state/manifest.ocdbt", "state/_METADATA"]
)
def test_a_pipe_in_a_checkpoint_is_damage(
    name: str, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    newest = max(steps_in(tmp_path))
    path = tmp_path / "checkpoints" / str(newest) / name
    path.unlink()
    os.mkfifo(path)
    train_and_evaluate(tiny_config(), str(tmp_path))  # an older one is whole
    same_run(tmp_path, uninterrupted)


def files_of(workdir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.fixture(params=["emptied", "missing", "damaged facts", "damaged arrays"])
def without_checkpoints(
    uninterrupted: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Path:
    """The workdir of a run that has lost all its checkpoints."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints"
    if request.param in ("emptied", "missing"):
        shutil.rmtree(folder)
    if request.param == "emptied":
        folder.mkdir()
    (tmp_path / "summary.json").unlink()  # else it is finished, and says so
    part = {"damaged facts": "facts", "damaged arrays": "state"}.get(request.param)
    for path in folder.glob(f"*/{part}/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    return tmp_path


@ORBAX_NOISE
def test_nothing_starts_over_in_silence(without_checkpoints: Path) -> None:
    config, workdir = tiny_config(), str(without_checkpoints)
    before = files_of(without_checkpoints)
    said = []
    for _ in range(2):
        with pytest.raises((UserError, TrainingError)) as caught:
            train_and_evaluate(config, workdir)
        said.append(str(caught.value))
    gc.collect()
    assert said[0] == said[1]
    assert "--config.train.start_over=True" in said[0] and "checkpoints" in said[0]
    assert ("nothing was moved" in said[0]) == ("is whole" in said[0])
    assert files_of(without_checkpoints) == before


@ORBAX_NOISE
def test_a_run_starts_over_if_it_is_asked_to(
    without_checkpoints: Path, uninterrupted: Path
) -> None:
    config = tiny_config(train__start_over=True)
    old = (without_checkpoints / "metrics.jsonl").read_bytes()
    train_and_evaluate(config, str(without_checkpoints))
    gc.collect()
    same_run(without_checkpoints, uninterrupted)
    aside = without_checkpoints / "replaced_1"
    assert (aside / "metrics.jsonl").read_bytes() == old
    # The run that has begun anew is not thrown away by the same command.
    before = files_of(without_checkpoints)
    train_and_evaluate(config, str(without_checkpoints))
    assert files_of(without_checkpoints) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{}\n[1]\nnull\n", b'{"step": 0, "knn": 0.9}\n{"st', b"\xff\x00" * 99],
)
def test_a_summary_says_what_was_measured_whatever_became_of_the_rows(
    uninterrupted: Path, tmp_path: Path, content: bytes
) -> None:
    expected = read_summary(uninterrupted)
    with pytest.raises(Stopped):
        train_and_evaluate(tiny_config(train__stop_after_steps=17), str(tmp_path))
    (tmp_path / "metrics.jsonl").write_bytes(content)
    summary = train_and_evaluate(tiny_config(), str(tmp_path))
    assert summary == expected | {"workdir": str(tmp_path)}


def test_a_summary_that_was_changed_is_made_again(uninterrupted: Path) -> None:
    path = uninterrupted / "summary.json"
    content = path.read_text()
    expected = read_summary(uninterrupted)
    for changed in (
        content.replace('"knn_trained": 0.', '"knn_trained": 1.'),
        json.dumps(expected),  # without its digest
        json.dumps({"steps": expected["steps"], "knn_untrained": "high"}),
        "[" * 100_000,
    ):
        path.write_text(changed)
        assert read_summary(uninterrupted) is None
        assert train_and_evaluate(tiny_config(), str(uninterrupted)) == expected
        assert path.read_text() == content


@pytest.mark.parametrize("content", ["", "{", "[]", '{"knn": 1}'])
def test_a_summary_that_is_lost_is_made_again(
    uninterrupted: Path, tmp_path: Path, content: str
) -> None:
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    expected = read_summary(uninterrupted)
    (tmp_path / "summary.json").write_text(content)
    summary = train_and_evaluate(tiny_config(), str(tmp_path))
    assert summary == expected | {"workdir": str(tmp_path)}


def test_other_data_in_the_workdir_is_refused(uninterrupted: Path) -> None:
    before = sorted(uninterrupted.rglob("*"))
    with pytest.raises(UserError, match="256 images.*with 255.*another --workdir"):
        train_and_evaluate(tiny_config(data__num_train=255), str(uninterrupted))
    assert sorted(uninterrupted.rglob("*")) == before


def test_a_finished_run_says_so(
    uninterrupted: Path, capsys: pytest.CaptureFixture
) -> None:
    summary = train_and_evaluate(tiny_config(), str(uninterrupted))
    output = capsys.readouterr().out
    assert "is finished" in output and "knn trained:" in output
    assert summary == read_summary(uninterrupted)


def test_a_finished_run_on_a_disk_that_takes_no_files_says_so(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    before = files_of(uninterrupted)
    train_and_evaluate(tiny_config(), str(uninterrupted))
    assert "is finished" in capsys.readouterr().out
    # Steps that are still to be taken need writing.
    longer = tiny_config(optimizer__schedule="steps", train__epochs=5)
    with pytest.raises(UserError, match="cannot be written \\(Read-only file system"):
        train_and_evaluate(longer, str(uninterrupted))
    assert files_of(uninterrupted) == before


def test_fewer_epochs_than_were_trained_are_refused(uninterrupted: Path) -> None:
    before = files_of(uninterrupted)
    with pytest.raises(UserError, match=r"ends at \d+ \(train.epochs=1, before \d+\)"):
        train_and_evaluate(tiny_config(train__epochs=1), str(uninterrupted))
    assert files_of(uninterrupted) == before


def test_a_run_killed_before_its_summary_still_makes_it(uninterrupted: Path) -> None:
    summary = uninterrupted / "summary.json"
    before = read_summary(uninterrupted)
    rows = read_rows(uninterrupted)
    summary.unlink()
    assert train_and_evaluate(tiny_config(), str(uninterrupted)) == before
    assert read_summary(uninterrupted) == before
    assert read_rows(uninterrupted) == rows


def test_the_summary_of_a_shorter_run_is_not_repeated(uninterrupted: Path) -> None:
    before = read_summary(uninterrupted)
    write_summary(uninterrupted, before | {"steps": 16, "knn_trained": 0.0})
    assert train_and_evaluate(tiny_config(), str(uninterrupted)) == before


def test_rows_hold_what_was_promised(uninterrupted: Path) -> None:
    rows = read_rows(uninterrupted)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps[:6]] == [3, 6, 8, 11, 14, 16]
    for row in steps:
        assert {
            "epoch",
            "instance",
            "propagation",
            "neighbor_overlap",
            "purity",
            "purity_by_hop",
            "learning_rate",
            "images_per_second",
            "seconds_left",
        } <= row.keys()
    scores = [row for row in rows if "knn" in row]
    assert [row["step"] for row in scores] == [0, 16, 32]
    assert all(0 <= row["knn_bank"] <= 1 for row in scores)
    assert "backbone" in (uninterrupted / "parameters.txt").read_text()


def test_the_start_of_propagation_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train_and_evaluate(tiny_config(train__epochs=3), str(tmp_path))
    output = capsys.readouterr().out
    assert "epoch 2: propagation starts" in output
    assert "purity of the positives" in output
    # After two epochs of a narrow network no graph is stable.
    assert "warning: " in output and "not stable yet" in output


def test_without_propagation_nothing_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = tiny_config(train__epochs=3, method__propagation_weight=0.0)
    train_and_evaluate(config, str(tmp_path))
    assert "propagation starts" not in capsys.readouterr().out
    for row in read_rows(tmp_path):
        if "loss" in row:
            assert row["loss"] == pytest.approx(row["instance"])


def test_a_bank_may_start_from_embeddings(tmp_path: Path) -> None:
    run = build_once(tiny_config(method__bank_start="embeddings"))
    state = init_state(run)
    memory = run.runner.fetch(state.memory, run.spec.memory, run.num_examples)
    images = run.dataset.train.images
    embedding = run.embed(state.params, state.batch_stats, images).embedding
    expected = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(memory.bank, expected, atol=1e-6)


def test_it_learns_digits(tmp_path: Path, optimized: None) -> None:
    """kNN rises ten points over the untrained encoder, in half a minute."""
    config = digits.get_config()
    config.num_devices, config.augmentation = 1, "host"  # little to compile
    config.data.num_train = 640
    config.encoder.width = 8
    config.method.update(background_size=256, start_epoch=6, num_hard=50)
    config.optimizer.update(learning_rate=0.12, warmup_epochs=0)
    config.train.update(epochs=14, evaluate_every=0)
    summary = train_and_evaluate(config, str(tmp_path))
    assert summary["knn_trained"] >= summary["knn_untrained"] + 0.10


def test_a_workdir_of_another_batch_size_is_refused(
    uninterrupted: Path,
) -> None:
    config = tiny_config(train__batch_size=16)
    with pytest.raises(UserError, match=r"train.batch_size=32, this config has 16"):
        train_and_evaluate(config, str(uninterrupted))


def test_a_start_after_the_end_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = tiny_config(train__epochs=1, method__start_epoch=1)
    train_and_evaluate(config, str(tmp_path))
    assert "propagation is never trained" in capsys.readouterr().out


def test_a_workdir_of_any_name_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    workdir = str(tmp_path / "runs[1]\\ \udcff")
    stop = tiny_config(train__stop_after_steps=3)
    with pytest.raises(Stopped, match="step 3 of 32"):
        train_and_evaluate(stop, workdir)
    with pytest.raises(Stopped, match="step 6 of 32"):
        train_and_evaluate(stop, workdir)
    train_and_evaluate(tiny_config(), workdir)
    same_run(Path(workdir), uninterrupted)


def test_a_workdir_may_lie_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Stopped):
        train_and_evaluate(tiny_config(train__stop_after_steps=3), "~/runs/x")
    assert (tmp_path / "runs/x/checkpoints/3").is_dir()
    assert not Path("~").exists()


@pytest.mark.parametrize(
    "workdir, changes, expected",
    [
        ("gs://bucket/run", {}, "--workdir=gs://bucket/run is an address"),
        (Path("s3://bucket/run"), {}, "--workdir=s3:/bucket/run is an address"),
        ("{tmp}/file/run", {}, "{tmp}/file is a file"),
        (
            "{tmp}/broken/run",
            {},
            "{tmp}/broken is a link to something that does not exist",
        ),
        (
            "{tmp}/run",
            {"weights": "gs://b/w.npz"},
            "weights=gs://b/w.npz is an address",
        ),
    ],
)
def test_a_place_that_cannot_be_used_is_said_before_data_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workdir: str | Path,
    changes: dict[str, Any],
    expected: str,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nothing")
    monkeypatch.setattr(sources, "load", None)
    if isinstance(workdir, str):
        workdir = workdir.format(tmp=tmp_path)
    with pytest.raises(UserError) as caught:
        train_and_evaluate(tiny_config(**changes), workdir)
    assert expected.format(tmp=tmp_path) in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert not Path("gs:").exists() and not Path("s3:").exists()


def test_a_workdir_is_tried_out_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "summary.json").mkdir()
    monkeypatch.setattr(pretrain, "first_point", None)
    with pytest.raises(UserError, match="summary.json is not a file"):
        train_and_evaluate(tiny_config(), str(tmp_path))


@ORBAX_NOISE
def test_a_save_that_fails_is_noticed_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at the next save, which would be five steps later."""
    steps = []

    def limit(state: Any, metrics: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
        return state, metrics

    def slow(config: Any) -> Run:
        run = build_once(config)

        def step(state: Any, *given: Any) -> Any:
            if checkpoints_of(tmp_path) == {"0", "5"}:  # while it is being written
                time.sleep(1)
            steps.append(int(state.step))
            state, metrics = run.step(state, *given)
            return limit(state, metrics) if steps[-1] == 4 else (state, metrics)

        return run._replace(step=step)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr(pretrain, "build", slow)
    try:
        with pytest.raises(TrainingError, match="checkpoint of step 5 could not be"):
            train_and_evaluate(tiny_config(), str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        gc.collect()
    assert steps[-1] < 9
    assert (tmp_path / "checkpoints" / "0").is_dir()
    assert not (tmp_path / "run.lock").exists()


def checkpoints_of(workdir: Path) -> set[str]:
    """The numbers of checkpoints that are there, or are being written."""
    return {path.name.partition(".")[0] for path in (workdir / "checkpoints").iterdir()}


@ORBAX_NOISE
def test_a_workdir_that_is_removed_while_it_trains_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(state: Any, metrics: Any) -> Any:
        shutil.rmtree(tmp_path / "run")
        return state, metrics

    break_at(monkeypatch, 4, remove)  # while nothing is being written
    with pytest.raises(TrainingError, match="run/checkpoints is gone: it was removed"):
        train_and_evaluate(tiny_config(), str(tmp_path / "run"))
    gc.collect()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_disk_that_is_full_while_it_trains_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnAFullDisk(MetricsLog):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self._file.close()
            self._file = open("/dev/full", "w")

    monkeypatch.setattr(pretrain, "MetricsLog", OnAFullDisk)
    with pytest.raises(TrainingError) as caught:
        train_and_evaluate(tiny_config(), str(tmp_path))
    expected = (
        f"{tmp_path}/metrics.jsonl could not be written (No space left on device)"
    )
    assert str(caught.value).startswith(
        f"{expected}: the disk is full; free some space"
    )
