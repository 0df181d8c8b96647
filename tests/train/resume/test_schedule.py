"""More epochs for a run that has a checkpoint: what its learning rate then does."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from invariance_propagation.errors import Stopped, UserError
from invariance_propagation.optimizer import make_schedule
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.resume.schedule import (
    check_horizon,
    from_to,
    how_to_train_on,
)
from tests.tiny_run import final_state, rows_without_times, tiny_config

RATE, PER_EPOCH, FOLDER = 0.03, 5, Path("runs/a b")


def config_of(epochs: int, **changes: Any) -> dict[str, Any]:
    optimizer = {
        "learning_rate": RATE,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "milestones": [30],
        "decay": 0.1,
        "warmup_epochs": 0,
        "restart_epochs": [],
        "restart_rates": [],
    }
    return {"train": {"epochs": epochs}, "optimizer": optimizer | changes}


def rates(config: dict[str, Any], *steps: int) -> np.ndarray:
    options = {**config["optimizer"], **config["train"]}
    del options["momentum"], options["weight_decay"]
    return make_schedule(**options, steps_per_epoch=PER_EPOCH)(np.array(steps))


def check(before: dict[str, Any], now: dict[str, Any], step: int) -> str | None:
    return check_horizon(
        before, now, step=step, steps_per_epoch=PER_EPOCH, folder=FOLDER
    )


def options_of(line: str) -> list[dict[str, Any]]:
    """Each group of options that a line offers, as 'section.key' -> value."""
    found = re.findall(r"--config\.train(?:(?!, )[^;:(])*", line)
    return [
        dict(
            part.removeprefix("--").split("=", 1)
            for part in shlex.split(text)
            if part.startswith("--")
        )
        for text in found
    ]


def followed(config: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    def numbers(name: str, kind: type) -> list:
        return [kind(x) for x in options[f"config.optimizer.{name}"].split(",")]

    restarts = {}
    if "config.optimizer.restart_epochs" in options:
        restarts["restart_epochs"] = numbers("restart_epochs", int)
        restarts["restart_rates"] = numbers("restart_rates", float)
    optimizer = config["optimizer"] | restarts
    return {
        "train": {"epochs": int(options["config.train.epochs"])},
        "optimizer": optimizer,
    }


@pytest.mark.parametrize("step", [3, 50, 99, 100])
def test_a_longer_cosine_is_refused_and_its_advice_works(step: int) -> None:
    before = config_of(20)
    with pytest.raises(UserError) as caught:
        check(before, config_of(40), step)
    line = str(caught.value)
    assert "\n" not in line
    assert "train.epochs=20" in line and "train.epochs=40" in line
    last, following = rates(before, step - 1)[0], rates(config_of(40), step)[0]
    assert f"from {from_to(last, following)}" in line
    here, elsewhere = options_of(line)
    assert elsewhere["workdir"] == "runs/a b-40-epochs"
    longer = followed(before, here)
    said = check(before, longer, step)
    assert "train.epochs=20 so far and has train.epochs=40 now" in said
    np.testing.assert_array_equal(
        rates(longer, *range(100)), rates(before, *range(100))
    )
    second = RATE / 2 * (1 + np.cos(np.pi * np.arange(101) / 100))
    np.testing.assert_allclose(
        rates(longer, *range(100, 201)), second, rtol=1e-5, atol=1e-9
    )
    # And a run that has continued so continues.
    assert check(longer, longer, 150) is None


def test_the_jump_of_800_epochs_is_named() -> None:
    steps = 800 * PER_EPOCH
    with pytest.raises(UserError, match=r"jump from .*e-09 to 0.015\. "):
        check(config_of(800), config_of(1600), steps)


def test_an_extended_run_is_extended_again() -> None:
    before = config_of(40, restart_epochs=[20], restart_rates=[0.01])
    with pytest.raises(UserError, match=r"restart_epochs=\(20,\)") as caught:
        check(before, before | {"train": {"epochs": 60}}, 150)
    longer = followed(before, options_of(str(caught.value))[0])
    assert longer["optimizer"]["restart_epochs"] == [20, 40]
    assert longer["optimizer"]["restart_rates"] == [0.01, RATE]
    check(before, longer, 150)
    np.testing.assert_array_equal(
        rates(longer, *range(200)), rates(before, *range(200))
    )


def test_a_shorter_cosine_is_refused() -> None:
    with pytest.raises(UserError, match="set --config.train.epochs=20 again") as caught:
        check(config_of(20), config_of(15), 50)
    assert "restart" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"schedule": "steps"}, 90),
        ({"warmup_epochs": 10}, 50),  # in its warm-up, nothing has been another rate
        ({"schedule": "steps", "warmup_epochs": 10}, 90),
    ],
)
def test_what_was_the_same_goes_on_and_is_named(changes: dict, step: int) -> None:
    before, now = config_of(20, **changes), config_of(40, **changes)
    assert "has train.epochs=40 now" in check(before, now, step)
    assert check(now, now, step) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.12, 0.0133, "0.12 to 0.013"),
        (0.119999, 0.119983, "0.12 to 0.11998"),
        (0.1, 0.1, "0.1 to 0.1"),
        (9e-10, 0.015, "9e-10 to 0.015"),
    ],
)
def test_two_rates_are_told_apart(before: float, after: float, expected: str) -> None:
    assert from_to(before, after) == expected


def test_a_warm_up_that_is_over_does_not_hide_a_jump() -> None:
    with pytest.raises(UserError, match="would jump"):
        check(config_of(20, warmup_epochs=10), config_of(40, warmup_epochs=10), 60)


def test_another_rate_is_no_other_horizon() -> None:
    assert check(config_of(20), config_of(20, learning_rate=0.01), 50) is None


def test_a_config_of_before_restarts() -> None:
    before = config_of(20)
    for name in ("restart_epochs", "restart_rates"):
        del before["optimizer"][name]
    assert check(before, config_of(20), 50) is None
    assert "falls to 0, add" in how_to_train_on(before, FOLDER)


def test_steps_are_trained_on_at_their_last_rate() -> None:
    before = config_of(40, schedule="steps")
    advice = how_to_train_on(before, FOLDER)
    (options,) = options_of(advice)
    longer = followed(before, options)
    check(before, longer, 200)
    np.testing.assert_allclose(rates(longer, 199, 200, 399), [0.003] * 3, rtol=1e-6)


def test_steps_drop_at_milestones_after_a_restart() -> None:
    config = config_of(
        50,
        schedule="steps",
        restart_epochs=[20],
        restart_rates=[0.01],
        milestones=[10, 30],
    )
    found = rates(config, *(PER_EPOCH * np.array([9, 10, 19, 20, 29, 30, 49])))
    wanted = [0.03, 0.003, 0.003, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"restart_epochs": [20]}, "give each epoch one rate"),
        ({"restart_rates": [0.1]}, "give each epoch one rate"),
        ({"restart_epochs": [40], "restart_rates": [0.1]}, "before train.epochs=40"),
        ({"restart_epochs": [0], "restart_rates": [0.1]}, "in rising order"),
        ({"restart_epochs": [20, 10], "restart_rates": [0.1, 0.1]}, "in rising order"),
        ({"restart_epochs": [20], "restart_rates": [0.0]}, "set them above 0"),
    ],
)
def test_restarts_that_cannot_be_are_refused(changes: dict, line: str) -> None:
    with pytest.raises(UserError, match=f"^optimizer.restart.*{line}"):
        rates(config_of(40, **changes), 0)


def test_the_advice_of_a_finished_run_followed_to_the_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    workdir = tmp_path / "run"
    changes: dict[str, Any] = {"train__epochs": 2, "train__evaluate_every": 0}
    for _ in range(2):
        train_and_evaluate(tiny_config(**changes), str(workdir))
    line = next(x for x in capsys.readouterr().out.splitlines() if "is finished" in x)
    here, elsewhere = options_of(line)
    assert elsewhere == {
        "config.train.epochs": "4",
        "workdir": f"{workdir}-4-epochs",
    }
    with pytest.raises(UserError, match="train.epochs=2; with .*=4 .* would jump"):
        train_and_evaluate(tiny_config(train__epochs=4), str(workdir))
    assert here == {
        "config.train.epochs": "4",
        "config.optimizer.restart_epochs": "2",
        "config.optimizer.restart_rates": "0.06",
    }
    changes |= {
        "train__epochs": 4,
        "optimizer__restart_epochs": (2,),
        "optimizer__restart_rates": (0.06,),
    }
    whole = shutil.copytree(workdir, tmp_path / "whole")
    with pytest.raises(Stopped, match="step 27 of 32"):
        stop = tiny_config(**changes, train__stop_after_steps=11)
        train_and_evaluate(stop, str(workdir))
    train_and_evaluate(tiny_config(**changes), str(workdir))
    assert "warning: the run in this workdir" not in capsys.readouterr().out

    # The same as without the stop.
    train_and_evaluate(tiny_config(**changes), str(whole))
    (step, found), (_, wanted) = (
        final_state(folder, **changes) for folder in (workdir, whole)
    )
    assert step == 32
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    rows = [
        [row for row in rows_without_times(folder) if "learning_rate" in row]
        for folder in (workdir, whole)
    ]
    assert rows[0] == rows[1]
    logged = {
        row["step"]: row["learning_rate"] for row in read_rows(workdir) if "loss" in row
    }
    for step, rate in logged.items():
        place = (step - 1) % 16 / 16
        assert rate == pytest.approx(0.03 * (1 + np.cos(np.pi * place)), rel=1e-4)
