"""Weights to start from: they are taken, they must fit, and are needed but once."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import digits
from invariance_propagation import settings
from invariance_propagation.errors import Stopped, UserError
from invariance_propagation.models import Encoder, make_encoder
from invariance_propagation.models.torchvision import to_torchvision
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.facts import Facts
from invariance_propagation.store.restore import restore_backbone
from invariance_propagation.train.build import build
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.resume.start import read_start
from invariance_propagation.train.run import init_state
from tests.stored_run import ENCODER, state_of, store_run
from tests.tiny_run import tiny_config


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    store_run(workdir)
    return workdir


def encoder_of(**changes) -> Encoder:
    config = digits.get_config()
    config.encoder.update(ENCODER | changes)
    return settings.call(make_encoder, "encoder", config)


def same(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def stored_state(step: int):
    config = digits.get_config()
    config.encoder.update(ENCODER)
    return state_of(step, dict(config.encoder))


@pytest.mark.parametrize(("place", "step"), [("", 7), ("checkpoints/3", 3)])
def test_an_encoder_that_is_alike_is_taken_whole(
    stored: Path, place: str, step: int
) -> None:
    path = str(stored / place)
    start = read_start(path, encoder=encoder_of(), channels=1)
    state = stored_state(step)
    same(start.params, state.params)
    same(start.batch_stats, state.batch_stats)
    digest = restore_backbone(path).digest()
    assert start.facts == {"path": path, "digest": digest, "head": True}


@pytest.mark.parametrize("changes", [{"dim": 9}, {"hidden": 7}, {"head": "linear"}])
def test_of_another_head_the_backbone_is_taken(stored: Path, changes: dict) -> None:
    start = read_start(str(stored), encoder=encoder_of(**changes), channels=1)
    assert set(start.params) == {"backbone"} and not start.facts["head"]
    same(start.params["backbone"], stored_state(7).params["backbone"])


def test_a_file_has_a_backbone(stored: Path, tmp_path: Path) -> None:
    state = stored_state(7)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    path = tmp_path / "weights.npz"
    np.savez(path, **to_torchvision(variables))
    start = read_start(str(path), encoder=encoder_of(), channels=1)
    assert set(start.params) == {"backbone"}
    same(start.params["backbone"], state.params["backbone"])
    same(start.batch_stats, state.batch_stats)


@pytest.mark.parametrize(
    ("changes", "channels"),
    [({"width": 8}, 1), ({"depth": 50}, 1), ({"stem": "imagenet"}, 1), ({}, 3)],
)
def test_another_backbone_is_refused(
    stored: Path, changes: dict, channels: int
) -> None:
    with pytest.raises(UserError, match="are of another backbone .*set encoder.depth"):
        read_start(str(stored), encoder=encoder_of(**changes), channels=channels)


def test_a_run_starts_from_them_with_a_bank_of_its_own(stored: Path) -> None:
    run = build(tiny_config(method__bank_start="embeddings"))
    start = read_start(str(stored), encoder=encoder_of(hidden=8, dim=128), channels=1)
    state = init_state(run, start[:2])
    params, batch_stats = jax.device_get((state.params, state.batch_stats))
    same(params["backbone"], start.params["backbone"])
    same(batch_stats, start.batch_stats)
    new = jax.device_get(init_state(run).params)
    same(params["head_output"], new["head_output"])
    memory = run.runner.fetch(state.memory, run.spec.memory, run.num_examples)
    embedding = run.embed(params, batch_stats, run.dataset.train.images).embedding
    expected = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(memory.bank, expected, atol=1e-6)


def test_a_run_that_goes_on_needs_them_no_more(
    stored: Path, tmp_path: Path, capsys
) -> None:
    weights, workdir = tmp_path / "weights", tmp_path / "run"
    shutil.copytree(stored, weights)
    changes = {"weights": str(weights), "encoder__depth": 18}
    changes |= {"train__epochs": 1, "train__evaluate_every": 0}
    with pytest.raises(Stopped):
        train_and_evaluate(
            tiny_config(**changes, train__stop_after_steps=3), str(workdir)
        )
    assert f"starting from the backbone of {weights}: " in capsys.readouterr().out
    shutil.rmtree(weights)
    train_and_evaluate(tiny_config(**changes), str(workdir))
    checkpoints = Checkpoints(workdir, keep=1)
    facts = checkpoints.facts()
    checkpoints.close()
    digest = restore_backbone(stored).digest()
    noted = {"path": str(weights), "digest": digest, "head": False}
    assert facts["step"] == 8 and facts["started_from"] == noted
    assert set(facts) <= set(Facts.__annotations__)


@pytest.mark.parametrize("weights", ["/nowhere", "/nowhere.safetensors"])
def test_weights_that_are_not_there_are_named(tmp_path: Path, weights: str) -> None:
    with pytest.raises(UserError, match="/nowhere"):
        train_and_evaluate(tiny_config(weights=weights), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
