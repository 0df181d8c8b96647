"""What a phase says."""

import pytest

from invariance_propagation import progress


def test_a_phase_says_what_it_is_and_how_long_it_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    times = iter([10.0, 12.34])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.phase("reading pictures"):
        assert capsys.readouterr().out == "reading pictures\n"
    assert capsys.readouterr().out == "  took 2.3 s\n"


def test_a_quick_phase_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    times = iter([10.0, 10.9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.phase("reading pictures"):
        pass
    assert capsys.readouterr().out == "reading pictures\n"
