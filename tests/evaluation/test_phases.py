"""What takes long says what it is, and how long it took."""

import time

import pytest

from invariance_propagation.evaluation.phases import phase


def test_what_takes_long_is_named_and_timed(capsys: pytest.CaptureFixture) -> None:
    with phase("reading digits", patience=0.02):
        time.sleep(0.3)
        assert capsys.readouterr().out == "reading digits ...\n"
    name, seconds, unit = capsys.readouterr().out.rsplit(" ", 2)
    assert (name, unit) == ("reading digits:", "s\n")
    assert float(seconds) >= 0.3


def test_what_is_quick_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    with phase("reading digits"):
        pass
    assert capsys.readouterr().out == ""


def test_what_fails_has_no_duration(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError), phase("reading digits", patience=0.02):
        time.sleep(0.3)
        raise ValueError
    assert capsys.readouterr().out == "reading digits ...\n"
