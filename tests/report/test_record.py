"""What is read from a workdir, and what is noted as missing."""

from pathlib import Path

import pytest

from invariance_propagation.data import sources
from invariance_propagation.report.record import read_record
from invariance_propagation.train.monitor import write_summary
from tests.report.finished_run import finish_run, rows


def test_a_run_is_read(tmp_path: Path) -> None:
    workdir = finish_run(tmp_path / "run", form="released", background_size="auto")
    write_summary(workdir, {"purity": 0.25})
    record = read_record("name", workdir)
    assert (record.name, record.rows, record.missing) == ("name", rows(), [])
    assert record.steps_per_epoch == 3 and record.notes.begins(record.rows) == 1
    assert record.summary == {"purity": 0.25} and record.cards == []
    assert len(record.dataset.train.images) == len(record.memory.rows) == 12
    assert record.notes.about == "a background of M = 4 images"


def test_a_set_that_is_not_there_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = finish_run(tmp_path / "run")

    def fail(**options: object) -> None:
        raise AssertionError(f"{options} are loaded")

    asked = []
    monkeypatch.setattr(sources, "load", fail)
    monkeypatch.setattr(
        sources, "must_be_fetched", lambda *what: asked.append(what) or True
    )
    record = read_record("run", workdir)
    assert record.dataset is None and record.memory is not None
    assert asked == [("digits", "")]
    (sentence,) = record.missing
    assert sentence == (
        "Pictures are left out: digits is not prepared in the usual place."
    )


def test_what_would_be_downloaded(tmp_path: Path) -> None:
    assert sources.must_be_fetched("svhn", str(tmp_path))
    assert sources.must_be_fetched("tfds:mnist", str(tmp_path))
    for name in ("digits", "fashion_mnist", "image_folder"):
        assert not sources.must_be_fetched(name, str(tmp_path))
    info = tmp_path / "svhn_cropped" / "3.1.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.touch()
    assert not sources.must_be_fetched("svhn", str(tmp_path))
