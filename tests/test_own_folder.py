"""A folder as users have it, from training to report: names of any bytes, bad pictures."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import embed as embed_config
from configs import evaluate as evaluate_config
from configs import image_folder
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation.evaluate import evaluate
from invariance_propagation.report.write import write_report
from invariance_propagation.store.facts import pack_ids, unpack_ids
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.tasks.embed import embed_folder
from invariance_propagation.train.build import build
from invariance_propagation.train.messages import data_found, run_prepares
from invariance_propagation.train.pretrain import train_and_evaluate
from tests.tiny_run import ROOT

CLASSES = [os.fsdecode(b"caf\xe9"), "new\nline"]
BAD = f"{CLASSES[0]}/7.png"
NAMES = [f"{kind}/{i}.png" for kind in CLASSES for i in range(40)]
USABLE = sorted(name for name in NAMES if name != BAD)


def fill(root: Path) -> None:
    random = np.random.default_rng(0)
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(256, size=(12, 14, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / name)
    (root / BAD).write_bytes(b"no picture")


def config_of(root: Path, **changes) -> ConfigDict:
    config = image_folder.get_config()
    config.num_devices = 1
    config.data.update(folder=str(root), classes=True, held_out=0.2)
    config.data.max_unreadable = 0.05
    config.augment.size = 8
    config.encoder.update(depth=6, width=4, hidden=8, dim=8)
    config.method.update(num_neighbors=2, num_hops=2, num_hard=4, background_size=16)
    config.train.update(epochs=1, batch_size=16, evaluate_every=0)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a name that is no UTF-8, with a run beside it that was stopped."""
    place = tmp_path_factory.mktemp("own")
    fill(place / os.fsdecode(b"pictures \xff"))
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    config = config_of(place / os.fsdecode(b"pictures \xff"))
    train_and_evaluate(config, str(place / "run"))
    return place / "run"


def test_the_first_lines_say_what_was_found(place: Path, capsys) -> None:
    config = config_of(place / os.fsdecode(b"pictures \xff"))
    run = build(config)
    data_found(run)
    run_prepares(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("found 80 pictures, in ")
    assert lines[0].endswith("pictures \\xff")
    assert lines[1] == "2 classes: caf\\xe9, new\\nline"
    assert lines[2].startswith(
        "1 picture that cannot be used is left out: caf\\xe9/7.png"
    )
    assert lines[3].startswith("pictures \\xff: ")


def test_the_rows_of_the_bank_are_the_usable_pictures(run: Path) -> None:
    ids = restore_memory(run).sample_ids
    assert set(ids) < set(USABLE) and ids == sorted(ids)


def test_ids_of_any_bytes_are_packed() -> None:
    assert unpack_ids(pack_ids(NAMES)) == NAMES


def test_a_renamed_folder_is_the_same_and_another_picture_is_not(
    place: Path, run: Path, tmp_path: Path, capsys
) -> None:
    fill(tmp_path / "renamed")
    train_and_evaluate(config_of(tmp_path / "renamed"), str(run))
    assert "is finished" in capsys.readouterr().out
    train, *_ = restore_memory(run).sample_ids
    pixels = np.zeros((12, 14, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "renamed" / train)
    with pytest.raises(UserError, match="digest .* choose another --workdir"):
        train_and_evaluate(config_of(tmp_path / "renamed"), str(run))


def test_too_many_bad_pictures_stop_before_anything_is_written(
    place: Path, tmp_path: Path
) -> None:
    root = place / os.fsdecode(b"pictures \xff")
    config = config_of(root, **{"data.max_unreadable": 0.001})
    with pytest.raises(
        UserError, match=r"1 of 80 pictures .*caf\\xe9/7.png.*max_unread"
    ):
        train_and_evaluate(config, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_picture_that_breaks_later_stops_the_run_by_name(tmp_path: Path) -> None:
    fill(tmp_path)
    run = build(config_of(tmp_path))
    broken = run.dataset.train.ids[3]
    (tmp_path / broken).write_bytes(b"no picture any more")
    with pytest.raises(TrainingError) as error:
        for _ in run.input.feed(start=0, stop=2 * run.steps_per_epoch):
            pass
    assert "cannot be used" in str(error.value) and str(error.value).isprintable()


def test_all_that_starts_from_the_run_takes_the_names(
    place: Path, run: Path, tmp_path: Path, capsys
) -> None:
    html = write_report(workdir=str(run), output=str(tmp_path / "report.html"))
    text = html.read_text(encoding="utf-8")
    assert "caf\\xe9" in text and "Pictures are left out" not in text

    root = place / os.fsdecode(b"pictures \xff")
    config = embed_config.get_config()
    config.update(checkpoint=str(run), folder=str(root), num_neighbors=2, num_devices=1)
    arguments = config.to_dict()
    del arguments["task"]
    found = np.load(embed_folder(**arguments), allow_pickle=False)
    assert found["ids"].tolist() == USABLE
    assert set(found["neighbor_ids"].flat) <= set(USABLE)

    config = evaluate_config.get_config()
    config.update(checkpoint=str(run), protocols="knn,semi_1pct", num_devices=1)
    config.update(output=str(tmp_path), num_seeds=1)
    config.semi.epochs = 1
    arguments = config.to_dict()
    del arguments["task"]
    cards = evaluate(**arguments)
    assert cards[0].settings["view"]["crop"] == {
        "train": "central 0.875",
        "held_out": "central 0.875",
    }
    (path,) = (tmp_path / "label_lists").glob("*.txt")
    assert all(line.count(" ") == 1 for line in path.read_text().splitlines())
    assert "found 80 pictures" in capsys.readouterr().out


def test_a_terminal_of_any_encoding_can_be_printed_to(place: Path) -> None:
    root = place / os.fsdecode(b"pictures \xff")
    command = [sys.executable, "main.py", "--config=configs/image_folder.py"]
    command += ["--config.task=scan", "--config.data.folder=" + str(root)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 2, done.stderr
    assert b"caf\\xe9/7.png: " in done.stdout and b"1 of 80 pictures" in done.stderr
