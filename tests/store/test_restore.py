"""Tests what is restored from a checkpoint or a file without the run."""

import errno
import gc
import json
import logging
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.models.torchvision import to_torchvision
from invariance_propagation.store import weights
from invariance_propagation.store.facts import digest_of_facts
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.store.reading import find_source, read_checkpoint
from invariance_propagation.store.restore import (
    float32,
    restore_backbone,
    restore_encoder,
)
from invariance_propagation.store.weights import read_weights
from tests.reference.fixed import fixed_images, trained_like
from tests.stored_run import IDS, store_run

# Orbax's complaint about what is damaged.
ORBAX_NOISE = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, store_run(workdir)


def same(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("place, step", [("", 7), ("checkpoints/3", 3)])
def test_an_encoder_comes_back_with_its_config(stored, place: str, step: int) -> None:
    workdir, states = stored
    before = sorted(workdir.rglob("*"))
    restored = restore_encoder(workdir / place)
    assert restored.step == step
    same(restored.params, states[step].params)
    same(restored.batch_stats, states[step].batch_stats)
    assert all(type(x) is np.ndarray for x in jax.tree.leaves(restored.params))
    assert restored.channels == 1
    assert restored.config["encoder"]["hidden"] == restored.encoder.hidden == 6
    assert restored.encoder.backbone.norm_axis_name == "batch"
    assert restored.facts["dataset"] == "image_folder"
    alone = float32(restored.encoder)
    assert alone.backbone.norm_axis_name is None
    variables = {"params": restored.params, "batch_stats": restored.batch_stats}
    outputs = alone.apply(variables, np.ones((2, 8, 8, 1)), train=False)
    assert outputs.embedding.shape == (2, 5)
    assert sorted(workdir.rglob("*")) == before


def test_memory_comes_back_with_the_ids_of_its_rows(stored) -> None:
    workdir, states = stored
    for place, step in (("", 7), ("checkpoints/3", 3)):
        memory = restore_memory(workdir / place)
        bank, graph, _ = states[step].memory
        same((memory.rows, memory.neighbors), (bank, graph))
        assert memory.arrays.keys() == {"bank", "graph"}
        assert memory.sample_ids == IDS
        assert memory.facts["step"] == step


def test_a_save_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    store_run(tmp_path, (3,))
    unfinished = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    unfinished.mkdir()
    restore_memory(tmp_path)
    assert restore_encoder(tmp_path).step == 3
    assert unfinished.is_dir()


def refusal(path: Path) -> str:
    """Returns the message about a checkpoint that cannot be read."""
    text = "it could"
    try:
        restore_encoder(path)
    except TrainingError as error:
        text = str(error)
    gc.collect()  # so that Orbax complains here, and not in a later test
    return text


@ORBAX_NOISE
@pytest.mark.parametrize("how", ["other bytes", "no bytes"])
def test_a_damaged_checkpoint_is_passed_over_and_stays(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    states = store_run(tmp_path)
    for path in (tmp_path / "checkpoints" / "7").rglob("d/*"):
        size = path.stat().st_size
        path.write_bytes(bytes(size) if how == "other bytes" else b"")
    with caplog.at_level(logging.WARNING):
        restored = restore_encoder(tmp_path)
    gc.collect()
    assert restored.step == 3
    same(restored.params, states[3].params)
    assert "7 cannot be read" in caplog.text and "taking step 3" in caplog.text
    text = refusal(tmp_path / "checkpoints" / "7")
    assert "7 cannot be read" in text and text.endswith("choose another checkpoint")
    assert "\n" not in text
    assert (tmp_path / "checkpoints" / "7").is_dir()


@pytest.mark.parametrize("part", ["params", "memory"])
def test_other_contents_than_were_written_are_noticed(
    tmp_path: Path, part: str
) -> None:
    store_run(tmp_path, (3,))
    path = tmp_path / "checkpoints" / "3" / "facts" / "metadata"
    stored = json.loads(path.read_text())
    facts = stored["facts"]
    name = next(name for name in facts["arrays"] if name.startswith(f".{part}"))
    facts["arrays"][name]["crc32"] ^= 1
    stored["digest"] = digest_of_facts(facts)
    path.write_text(json.dumps(stored))
    with pytest.raises(TrainingError, match=f"{part}.* has changed since"):
        read_checkpoint(tmp_path, (part,))
    other = {"params": "memory", "memory": "params"}[part]
    assert read_checkpoint(tmp_path, (other,))[0].keys() == {other}


def test_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint: name a run's workdir"):
        restore_encoder(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        restore_encoder(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **weights)
    else:
        save_file(weights, path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz"])
def test_a_backbone_is_the_same_from_either_source(
    stored, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    workdir, states = stored
    here = restore_backbone(workdir)
    variables = {"params": states[7].params, "batch_stats": states[7].batch_stats}
    weights = {f"model.{k}": x for k, x in to_torchvision(variables).items()}
    write_weights(tmp_path / name, weights)
    there = restore_backbone(tmp_path / name)
    assert here.module == there.module and here.channels == there.channels == 1
    same((here.params, here.batch_stats), (there.params, there.batch_stats))
    assert here.digest() == there.digest()
    assert here.digest() != restore_backbone(workdir / "checkpoints" / "3").digest()
    assert "left out the layers behind the backbone: fc.0" in capsys.readouterr().out


def test_public_weights_need_no_checkpoint(tmp_path: Path) -> None:
    # Only this test needs PyTorch. After a first import that failed, a second one finds
    # half of the module.
    pytest.importorskip("torch")
    from tests.reference import torchvision_resnet as reference

    network = reference.TorchResNet(50, "imagenet", width=2)
    weights = trained_like(reference.shapes_of(network))
    save_file(weights, tmp_path / "w.safetensors")
    backbone = restore_backbone(tmp_path / "w.safetensors")
    assert (backbone.module.depth, backbone.module.width) == (50, 2)
    images = fixed_images(2, 32)
    variables = {"params": backbone.params, "batch_stats": backbone.batch_stats}
    run = jax.jit(lambda x: backbone.module.apply(variables, x, train=False))
    expected = reference.run(reference.load(network, weights), images)
    np.testing.assert_allclose(run(images.transpose(0, 2, 3, 1)), expected, 0, 1e-4)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file .*w.safetensors"):
        read_weights(tmp_path / "w.safetensors")
    for name in ("w.safetensors", "w.npz"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            restore_backbone(tmp_path / name)
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(UserError, match="from .safetensors and .npz files"):
        read_weights(tmp_path / "w.pth")
    # A pickle is not opened, whatever it is called.
    np.savez(tmp_path / "w.npz", x=np.array([{}], object))
    with pytest.raises(UserError, match="w.npz cannot be read .*pickle"):
        read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["runs[1]", "a\\b", "not utf-8 \udcff", "gs:", "a,b"])
def test_a_run_of_any_name_comes_back(tmp_path: Path, name: str) -> None:
    states = store_run(tmp_path / name)
    (tmp_path / "runs1").mkdir()
    for place, step in (("", 7), ("checkpoints/3", 3)):
        same(restore_encoder(tmp_path / name / place).params, states[step].params)
        assert restore_memory(tmp_path / name / place).sample_ids == IDS
    # One step that was moved elsewhere.
    (tmp_path / name / "checkpoints/7").rename(tmp_path / f"{name}[7]")
    assert restore_encoder(tmp_path / f"{name}[7]").step == 7


def test_a_run_may_lie_in_the_home_folder(stored, monkeypatch) -> None:
    workdir, _ = stored
    monkeypatch.setenv("HOME", str(workdir.parent))
    assert restore_encoder(f"~/{workdir.name}").step == 7
    assert find_source(f"~/{workdir.name}/checkpoints/7").workdir == workdir


def test_a_run_may_be_named_like_a_file_of_weights(stored, tmp_path: Path) -> None:
    shutil.copytree(stored[0], tmp_path / "run.npz")
    assert find_source(tmp_path / "run.npz").workdir == tmp_path / "run.npz"
    assert restore_backbone(tmp_path / "run.npz").channels == 1
    assert find_source(tmp_path / "weights.npz").workdir is None


@pytest.mark.parametrize("path", ["gs://b/run", Path("gs://b/run"), "s3://b/w.npz"])
def test_an_address_is_refused(path: str | Path) -> None:
    with pytest.raises(UserError, match="is an address"):
        restore_backbone(path)


def test_a_file_is_not_called_damaged_that_cannot_be_read(
    tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "w.npz").touch()

    def refuse(*args, **options) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(weights, "open_arrays", refuse)
    with pytest.raises(UserError, match=r"w.npz cannot be read \(Permission denied\)$"):
        read_weights(tmp_path / "w.npz")
