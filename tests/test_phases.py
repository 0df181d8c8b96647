"""What is said of work that takes a while, and that quick work says nothing."""

import sys
import time

import pytest
import tqdm

from invariance_propagation import phases
from invariance_propagation.phases import duration, phase


def test_slow_work_is_named_while_it_goes_on_and_timed_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.05)
    said: list[str] = []
    until = time.monotonic() + 30
    with phase("reading", said.append):
        while not said:  # by another thread, while this one is busy
            assert time.monotonic() < until
    assert said[0] == "reading ..."
    assert len(said) == 2 and said[1].startswith("reading: 0.") and said[1][-1] == "s"


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture) -> None:
    with phase("reading"):
        pass
    assert capsys.readouterr().out == ""


def test_work_that_fails_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    said: list[str] = []
    with pytest.raises(KeyError), phase("reading", said.append):
        raise KeyError
    assert said in ([], ["reading ..."])


def test_a_line_does_not_tear_a_bar(capsys: pytest.CaptureFixture) -> None:
    with tqdm.tqdm(total=3, file=sys.stderr) as bar:
        bar.update()
        phases.say("a line")
    captured = capsys.readouterr()
    assert captured.out == "a line\n"
    assert captured.err.count("1/3") >= 2  # cleared, and drawn again below the line


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (4.21, "4.2 s"),
        (59.99, "1:00"),
        (125, "2:05"),
        (3725, "1:02:05"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
