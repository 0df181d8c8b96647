"""Tests runs on a folder of pictures: what their steps receive, and exact resumption."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from configs import image_folder
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.facts import unpack_ids
from invariance_propagation.train import pretrain
from invariance_propagation.train.build import build
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.run import Run, lower, state_shapes, views_of
from tests.tiny_run import rows_without_times, tiny_config

COUNT = 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes three classes of digits as PNG files, a folder each."""
    folder = tmp_path_factory.mktemp("pictures")
    digits = load_digits(n_class=3)
    for i in range(COUNT):
        path = folder / str(digits.target[i]) / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(path)
    return folder


def folder_config(folder: Path, **changes: Any):
    config = image_folder.get_config()
    config.num_devices = 2
    config.update_from_flattened_dict(
        {
            "data.folder": str(folder),
            "augment.size": 8,
            "encoder.depth": 6,
            "encoder.width": 4,
            "encoder.hidden": 8,
            "method.background_size": 16,
            "method.start_epoch": 1,
            "knn.num_neighbors": 3,
            "train.batch_size": 16,
            "train.epochs": 2,
            "train.checkpoint_every": 2,
        }
        | {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def final_state(workdir: Path, run: Run) -> tuple[int, Any, dict]:
    checkpoints = Checkpoints(workdir, keep=9)
    shapes = state_shapes(run)
    found = checkpoints.restore(shapes)
    checkpoints.close()
    return found


def test_without_classes_labels_are_left_out_and_a_crash_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    config = folder_config(folder)
    summary = train_and_evaluate(config, str(tmp_path / "whole"))
    assert (
        "no labels: kNN and other scores by labels are left out"
        in capsys.readouterr().out
    )
    assert not any("knn" in name or "purity" in name for name in summary)

    def build_to_break(config: Any) -> Run:
        run = build(config)

        def crash(state: Any, *given: Any) -> Any:
            if int(state.step) == 5:
                raise RuntimeError("the machine went away")
            return run.step(state, *given)

        return run._replace(step=crash)

    monkeypatch.setattr(pretrain, "build", build_to_break)
    with pytest.raises(RuntimeError, match="went away"):
        train_and_evaluate(config, str(tmp_path / "killed"))
    monkeypatch.undo()
    train_and_evaluate(config, str(tmp_path / "killed"))

    run = build(config)
    step, state, facts = final_state(tmp_path / "whole", run)
    again, same, _ = final_state(tmp_path / "killed", run)
    assert step == again == 2 * (COUNT // 16)
    jax.tree.map(np.testing.assert_array_equal, state, same)
    rows = rows_without_times(tmp_path / "whole")
    assert rows == rows_without_times(tmp_path / "killed")
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.png")
    )
    assert unpack_ids(facts["sample_ids"]) == names
    text = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    waits = [json.loads(line)["waiting_for_data"] for line in text]
    assert all(0 <= wait <= 1 for wait in waits)


def test_with_classes_there_is_knn_of_what_is_held_out(
    folder: Path, tmp_path: Path, capsys
) -> None:
    config = folder_config(folder, data__classes=True, data__held_out=0.3)
    summary = train_and_evaluate(config, str(tmp_path))
    assert 0 <= summary["knn_trained"] <= 1
    assert summary["knn_raw_pixels"] is None
    assert "raw pixels" not in capsys.readouterr().out
    dataset = build(config).dataset
    held_out, trained = dataset.held_out.images.ids, dataset.train.images.ids
    assert len(held_out) + len(trained) == COUNT and not set(held_out) & set(trained)
    assert all(
        int(name[0]) == label
        for name, label in zip(trained, dataset.train.labels, strict=True)
    )


def test_a_picture_that_cannot_be_read_stops_the_run(
    folder: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    for path in folder.rglob("*.png"):
        copy = pictures / path.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    damaged = pictures / "30.png"
    damaged.write_bytes(damaged.read_bytes()[:50])  # its header is whole
    changes = {"method__bank_start": "uniform", "data__scan": "headers"}
    config = folder_config(pictures, **changes)
    with pytest.raises(TrainingError, match="30.png cannot be used"):
        train_and_evaluate(config, str(tmp_path / "run"))


def digits_config(folder: Path, **changes: Any):
    del folder
    return tiny_config(augment__crop_scale=(0.5, 1.0), **changes)


@pytest.mark.parametrize("make_config", [folder_config, digits_config])
def test_views_made_on_the_host_are_the_devices(folder: Path, make_config) -> None:
    on_device = build(make_config(folder))
    on_host = build(make_config(folder, augmentation="host"))
    indices = np.arange(20, dtype=np.int32)
    std = np.array(on_host.chances["std"])
    for epoch in (0, 3):
        expected = np.asarray(views_of(on_device, epoch, indices)["view"])
        found = np.asarray(views_of(on_host, epoch, indices)["view"])
        gray_levels = 255 * std * np.abs(found - expected)
        assert gray_levels.mean() < 0.5 and gray_levels.max() < 6


@pytest.mark.parametrize("make_config", [folder_config, digits_config])
def test_a_step_is_given_the_hosts_views(folder: Path, make_config) -> None:
    run = build(make_config(folder, augmentation="host"))
    per_epoch = run.steps_per_epoch
    feed = run.input.feed(start=per_epoch + 1, stop=per_epoch + 3)
    shapes = lower(run)
    for _ in range(2):
        indices, images, columns = next(feed)
        images, shape = images["view"], shapes.images["view"]
        assert columns == {}
        for given, expected in ((indices, shapes.indices), (images, shape)):
            assert given.shape == expected.shape and given.dtype == expected.dtype
            assert given.sharding == expected.sharding
        # Both devices' rows, one after the other.
        indices, images = (np.concatenate(np.asarray(x)) for x in (indices, images))
        std, mean = (np.array(run.chances[name]) for name in ("std", "mean"))
        views = 255 * (np.asarray(views_of(run, 1, indices)["view"][0]) * std + mean)
        np.testing.assert_allclose(images[:, 0], views, atol=1e-3)
    assert next(feed, None) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data__folder": ""}, "--config.data.folder=DIR is missing"),
        ({"data__folder": "/nowhere"}, "there is no folder /nowhere"),
        ({"data__held_out": 1.0}, "data.held_out=1.0"),
        ({"train__num_threads": 0}, "train.num_threads=0"),
        ({"train__num_workers": -1}, "train.num_workers=-1"),
        ({"augmentation": "gpu"}, "augmentation='gpu': choose one of device, host"),
        ({"augment__mean": (0.5,), "augment__std": (0.5,)}, r"3 channel\(s\)"),
    ],
)
def test_bad_input(folder: Path, tmp_path: Path, changes, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        train_and_evaluate(folder_config(folder, **changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
