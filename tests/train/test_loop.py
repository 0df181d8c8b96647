"""What the first minutes of a run say, and that no speed includes compilation."""

import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs import image_folder
from invariance_propagation import phases
from invariance_propagation.data import sources
from invariance_propagation.train import averages, pretrain
from invariance_propagation.train.averages import Clock
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.run import Run
from tests.tiny_run import tiny_config

HOUR = 3600.0


class Compiled:
    """A step whose compilation takes an hour, by the clock of `averages`."""

    def __init__(self, step: Any, clock: Any):
        self._step, self._clock, self.compiled = step, clock, 0

    def __call__(self, *args: Any) -> Any:
        assert self.compiled == 1
        return self._step(*args)

    def lower(self, *args: Any) -> Any:
        self._lowered = self._step.lower(*args)
        return self

    def compile(self) -> None:
        self._lowered.compile()
        self.compiled += 1
        self._clock.late += HOUR


class LateClock:
    """Stands in for the module `time`."""

    late = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.late


def test_the_first_minutes_speak_and_no_speed_includes_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The first step has a row of its own, as with one step per epoch."""
    clock = LateClock()

    def build_slow(config: Any) -> Run:
        run = build(config)
        return run._replace(step=Compiled(run.step, clock))

    monkeypatch.setattr(pretrain, "build", build_slow)
    monkeypatch.setattr(averages, "time", clock)
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    # The rest as in other tests, whose compiled programs are used again.
    train_and_evaluate(tiny_config(train__log_every=1), str(tmp_path))
    rows = [row for row in read_rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == [*range(1, 33)]
    for row in rows:
        assert row["images_per_second"] > 32 / HOUR
        assert row["seconds_left"] < HOUR
    said = capsys.readouterr().out
    for name in (
        "reading the data",
        "making the network and the method's memory",
        "kNN of the network before training",
        "saving the first checkpoint",
        "reading the first images",
        "compiling the step",
        "kNN after epoch 1",
        "saving the checkpoint of step 32",
        "kNN of the trained network",
        "measuring for the summary",
    ):
        assert f"\n{name}: " in f"\n{said}", name
        assert said.count(f"{name}: ") == 1


def test_a_clock_counts_steps_time_and_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = LateClock()
    monkeypatch.setattr(time, "monotonic", lambda: time.late, raising=False)
    monkeypatch.setattr(averages, "time", time)
    clock = Clock(3)
    time.late = 9.0
    clock.restart(5)
    with clock.waiting():
        time.late = 10.0
    time.late = 13.0
    figures = clock.figures(7, total=15, batch_size=32)
    assert figures == {
        "images_per_second": 16.0,
        "waiting_for_data": 0.25,
        "seconds_left": 16.0,
    }


def test_a_look_at_pictures_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    for i in range(4):
        path = tmp_path / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (60 * i, 0, 0)).save(path)
    config = image_folder.get_config()
    config.data.folder, config.data.held_out = str(tmp_path), 0.0
    sources.load(**config.data, size=8, seed=0)
    said = capsys.readouterr().out
    assert "checking 4 pictures ...\n" in said and "checking 4 pictures: " in said
