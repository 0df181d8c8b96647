"""What a stop waits for, and what it does not."""

import os
import signal
from types import SimpleNamespace

import pytest

from invariance_propagation.train.resume.stopping import Stopping, stop_requests

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
        os.kill(os.getpid(), number)
        raise AssertionError("went on")

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
