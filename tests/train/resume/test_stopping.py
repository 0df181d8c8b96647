"""What a stop waits for, and what it does not."""

import os
import signal
from types import SimpleNamespace

import pytest

from invariance_propagation.train.resume.stopping import (
    HOURS,
    STEPS,
    Stopping,
    advise,
    describe,
    exit_status,
    stop_requests,
)

RUNNER = SimpleNamespace(compile=lambda *args: None)


def make(*, start: int, on_disk: list[int]) -> Stopping:
    return Stopping(
        RUNNER,
        start=start,
        last_step=None,
        hours=None,
        on_disk=lambda: on_disk[-1],
        describe=lambda by, step, lost: f"{by} at {step}, {lost} lost",
    )


def test_a_run_without_new_steps_stops_at_once() -> None:
    on_disk = [10]
    stopping = make(start=10, on_disk=on_disk)
    assert stopping.ask_to_stop(signal.SIGTERM) is None  # in its first step
    assert stopping.last_words(signal.SIGTERM) == "SIGTERM at 10, 0 lost"
    assert stopping(12) == 0
    # A save in the background has to end, too.
    assert "saving a checkpoint" in stopping.ask_to_stop(signal.SIGTERM)
    assert stopping.last_words(signal.SIGTERM) == "SIGTERM at 10, 2 lost"
    assert stopping(13) == signal.SIGTERM
    on_disk.append(13)
    assert stopping.ask_to_stop(signal.SIGTERM) is None
    assert stopping.last_words(signal.SIGTERM) == "SIGTERM at 13, 0 lost"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda x: x.name
)
def test_work_that_leaves_the_state_alone_is_left(number: signal.Signals) -> None:
    stopping = make(start=0, on_disk=[0])
    before = signal.getsignal(number)

    def work() -> int:
        signal.raise_signal(number)  # in this thread, and at once
        raise AssertionError("continued")

    with stop_requests(stopping):
        assert stopping.unless_asked(lambda: 3) == 3
        assert stopping.unless_asked(work) is None
        assert stopping.unless_asked(work) is None  # not even begun
        assert stopping(1) == number
    assert signal.getsignal(number) == before


def test_a_signal_between_does_not_break_what_is_not_to_be_left() -> None:
    stopping = make(start=0, on_disk=[0])
    with stop_requests(stopping):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping(1) == signal.SIGTERM


def test_an_ignored_signal_is_not_taken() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests(make(start=0, on_disk=[0])):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("stop", "name", "status"),
    [
        (STEPS, "train.stop_after_steps=11", 0),
        (HOURS, "train.stop_after_hours=0.5", 0),
        (signal.SIGTERM, "SIGTERM", 143),
    ],
)
def test_a_stop_is_named_by_its_key_and_value(
    stop: int, name: str, status: int
) -> None:
    options = SimpleNamespace(stop_after_steps=11, stop_after_hours=0.5)
    assert describe(stop, options) == name
    assert exit_status(stop) == status


def test_the_same_command_is_advised_only_if_it_gets_somewhere() -> None:
    again = "run the same command to continue"
    assert advise(signal.SIGINT, taken=0) == again
    for stop, key in ((STEPS, "stop_after_steps"), (HOURS, "stop_after_hours")):
        assert advise(stop, taken=2).startswith(again)
        assert again not in advise(stop, taken=1)
        for taken in (1, 2):
            assert f"--config.train.{key}=0" in advise(stop, taken=taken)


def test_hours_and_steps_are_told_apart() -> None:
    late = Stopping(
        RUNNER,
        start=0,
        last_step=2,
        hours=1e-9,
        on_disk=lambda: 0,
        describe=lambda by, step, lost: by,
    )
    assert [late(done) for done in (1, 2)] == [HOURS, STEPS]
