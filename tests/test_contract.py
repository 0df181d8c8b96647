"""The contract carries different methods, one around another too, by the same shared code."""

import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import embed as embed_config
from configs import evaluate as evaluate_config
from invariance_propagation import devices
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.evaluation.evaluate import evaluate
from invariance_propagation.methods import Problem, make_method
from invariance_propagation.models import Encoder
from invariance_propagation.parallel import AXIS
from invariance_propagation.report.write import write_report
from invariance_propagation.store.checkpoint import FOLDER, Checkpoints
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.tasks.embed import embed_folder
from invariance_propagation.tasks.export import export
from invariance_propagation.tasks.plan.memory import make_plan
from invariance_propagation.tasks.preview import draw_preview
from invariance_propagation.train import build, pretrain
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.run import init_state, state_shapes
from invariance_propagation.train.step import train_step
from tests import tiny
from tests.test_conventions import CORE, MODULES, NAME
from tests.tiny_run import build_once, tiny_config

pytestmark = pytest.mark.usefixtures("toy_data")

NUM_STEPS = 12  # in the third epoch
# Sums over devices are added in another order, and steps of SGD carry that on.
TOLERANCE = {"rtol": 5e-4, "atol": 5e-5}
INVP = {"name": "invariance_propagation", **tiny.METHOD}
MIXED = {"global_probability": 0.5, "alpha": 1.0}
COKE = {
    "name": "coke",
    "num_small": 1,
    "num_clusters": (5, 7),
    "least_size": 0.4,
    "dual_rate": 0.5,
    "temperature": 0.2,
    "prediction_weight": 1.0,
    "average_from": 1,
    "num_slots": 3,
    "slot_temperature": 0.5,
    "hard_weight": 0.2,
    "large_weight": 0.5,
}
METHODS = {
    "invp": INVP,
    "unmix": {"name": "unmix", **MIXED, "inner": INVP},
    "odc": {
        "name": "odc",
        "num_clusters": 6,
        "bank_momentum": 0.5,
        "min_cluster": 7,
        "splits_per_step": 2,
        "refresh_every": 3,
        "weight_power": 0.5,
        "kmeans_iterations": 4,
        "split_iterations": 5,
        "dropout": 0.5,
        "norm_momentum": 0.9,
    },
    "coke": {**COKE, "views": "multi_crop"},
    "coke_one": {**COKE, "views": "one", "prediction_weight": 0.5},
    "separating": {"name": "tests.toys:separating", "size": 24},
    "tracking": {"name": "tests.toys:tracking", "frames": 3},
}
# Un-Mix around methods with dropout and labels, several groups of views, columns, clips.
WRAPPED = {
    f"unmix+{name}": {"name": "unmix", **MIXED, "inner": METHODS[name]}
    for name in ("odc", "coke", "separating", "tracking")
}
METHODS["unmix+odc"] = WRAPPED.pop("unmix+odc")
WITH_GRAPH = ("invp", "unmix")
WITH_BANK = (*WITH_GRAPH, "odc", "unmix+odc")
# The classifier is a group of its own for the optimiser.
HEAD = {"head": {"rate": 2.0, "momentum": 0.0}}
GROUPS = {"odc": HEAD, "unmix+odc": HEAD}
SMALL = {"coke": {"small": {"size": 6, "crop_scale": (0.2, 0.6)}}}


def toy_set(folder: str) -> Dataset:
    """93 images of three classes, and of two domains; 20 more are held out."""
    del folder
    images, labels = tiny.pictures(), np.arange(tiny.NUM_EXAMPLES, dtype=np.int32) % 3
    domains = {"domain": (labels % 2).astype(np.int32)}
    train = Split(images, labels, columns=domains)
    lighter = np.clip(images[::5].astype(int) + 3, 0, 255).astype(np.uint8)
    held_out = Split(lighter, labels[::5], columns={"domain": labels[::5] % 2})
    return Dataset("toy", train, held_out)


@pytest.fixture
def toy_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.LOADERS, "toy", toy_set)


def config_of(name: str, **changes: Any) -> ConfigDict:
    config = tiny_config(
        data__name="toy",
        data__num_train=0,
        train__batch_size=tiny.BATCH_SIZE,
        train__epochs=3,
        knn__num_neighbors=5,
        encoder__dim=8,
        augment__crop_scale=(0.5, 1.0),
        **changes,
    )
    wrapped = name.removeprefix("unmix+")
    with config.unlocked():
        config.method = ConfigDict((METHODS | WRAPPED)[name])
        config.views = ConfigDict(SMALL.get(wrapped, {}))
        config.optimizer.groups = ConfigDict(GROUPS.get(wrapped, {}))
    return config


def tiny_encoder(**options: Any) -> Encoder:
    del options
    return Encoder(tiny.TinyBackbone(AXIS), "linear", hidden=16, dim=8)


def take_steps(config: ConfigDict) -> tuple[Any, list[dict[str, float]]]:
    """Takes steps of a run as the training loop does."""
    run = build.build(config)
    state, metrics = init_state(run), []
    for given in run.input.feed(start=0, stop=NUM_STEPS):
        with jax.transfer_guard("disallow"):
            state, found = run.step(state, *given)
        metrics.append({name: float(x) for name, x in found.items()})
    return run.runner.fetch(state, run.spec, run.num_examples), metrics


def take_alone(config: ConfigDict) -> tuple[Any, list[dict[str, float]]]:
    """Takes the same steps on one device that holds everything, without an axis."""
    run = build.build(config)  # for its initial state, order and views
    problem = Problem(
        encoder=Encoder(tiny.TinyBackbone(None), "linear", hidden=16, dim=8),
        num_examples=run.num_examples,
        batch_size=tiny.BATCH_SIZE,
        steps_per_epoch=run.steps_per_epoch,
        axis_name=None,
        categories={"domain": 2},
    )
    method = make_method(config, problem)
    labels = None
    state = run.runner.fetch(init_state(run), run.spec, run.num_examples)
    if method.param_groups is not None:
        labels = method.param_groups(state.params)
    _, optimizer = build.settings.call(
        build.make_optimizer,
        "optimizer",
        config,
        epochs=config.train.epochs,
        steps_per_epoch=run.steps_per_epoch,
        labels=labels,
    )
    looks = build.make_looks(config, method)
    images = run.dataset.train.images
    given = build.resident(images, looks, runner=run.runner, facts=build.Facts(0, 1, 1))
    step = jax.jit(
        partial(
            train_step,
            method=method,
            optimizer=optimizer,
            pick=given.pick,
            views=given.views,
            seed=config.seed,
            steps_per_epoch=run.steps_per_epoch,
            axis_name=None,
        )
    )
    metrics = []
    for indices in tiny.batches(NUM_STEPS):
        column = run.dataset.train.columns["domain"][indices]
        columns = {name: column for name in method.requires.columns}
        state, found = step(state, jnp.asarray(indices), images, columns)
        metrics.append({name: float(x) for name, x in found.items()})
    return jax.device_get(state), metrics


@pytest.mark.parametrize("name", METHODS | WRAPPED)
def test_devices_and_runners_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled in a second; restored and exported networks are tried below.
    monkeypatch.setattr(build, "make_encoder", tiny_encoder)
    monkeypatch.setattr(build.settings, "call", call_without_encoder)
    expected, wanted = take_alone(config_of(name, num_devices=1))
    assert all(np.isfinite(x) for row in wanted for x in row.values())
    for mode in devices.MODES:
        for count in (1, 2, 4) if name in METHODS else (4,):
            config = config_of(name, num_devices=count, parallel=mode)
            state, metrics = take_steps(config)
            for row, right in zip(metrics, wanted, strict=True):
                assert row.keys() == right.keys()
                for key, value in right.items():
                    np.testing.assert_allclose(
                        row[key], value, err_msg=f"{key} {mode} {count}", **TOLERANCE
                    )
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, **TOLERANCE),
                state,
                expected,
            )


call = build.settings.call


def call_without_encoder(function: Any, section: str, *args: Any, **more: Any) -> Any:
    return (
        tiny_encoder()
        if section == "encoder"
        else call(function, section, *args, **more)
    )


# The rest of the program, by the same methods.


@pytest.fixture(autouse=True, scope="module")
def one_step_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "build", build_once)
        yield


def run_all(name: str, workdir: Path, **changes: Any) -> dict[str, Any]:
    return train_and_evaluate(config_of(name, **changes), str(workdir))


@pytest.fixture(params=METHODS, scope="module")
def trained(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, dict[str, Any]]:
    """A run of each method that was not interrupted: its name, workdir and summary."""
    workdir = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.LOADERS, "toy", toy_set)
        return request.param, workdir, run_all(request.param, workdir)


def test_a_run_that_was_killed_ends_with_the_same_bits(trained, tmp_path: Path) -> None:
    name, workdir, _ = trained
    saved = tmp_path / FOLDER / "10"
    shutil.copytree(workdir / FOLDER / "10", saved)
    run_all(name, tmp_path)
    step, state = state_of(name, tmp_path)
    expected_step, expected = state_of(name, workdir)
    assert step == expected_step == 15
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def state_of(name: str, workdir: Path) -> tuple[int, Any]:
    run = build.build(config_of(name))
    checkpoints = Checkpoints(workdir, keep=9)
    shapes = state_shapes(run)
    step, state, _ = checkpoints.restore(shapes)
    checkpoints.close()
    return step, state


def test_it_is_monitored_planned_and_previewed(trained, tmp_path: Path) -> None:
    name, _, summary = trained
    # Toys are no better than chance; what counts is that they are measured.
    assert 0 <= summary["knn_trained"] <= 1 and summary["steps"] == 15
    has_bank = name in WITH_BANK
    assert ("knn_bank" in summary) == has_bank
    assert ("purity" in summary) == (name in WITH_GRAPH)
    plan = make_plan(build.build(config_of(name)))
    assert plan.device["parameters"] > 0
    assert ("bank" in plan.device) == has_bank
    config = config_of(name)
    config.output = str(tmp_path / "views.png")
    with Image.open(draw_preview(config)) as drawn:
        assert drawn.size[0] > 300


def test_without_rows_or_embeddings_knn_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    summary = run_all("coke", tmp_path, knn__embed_anew=False)
    out = capsys.readouterr().out
    reason = "it needs a row for each image in the memory, and this method keeps none"
    assert f"kNN is left out: with knn.embed_anew=False {reason}\n" in out
    assert out.count("kNN") == 1
    assert not any(name.startswith("knn") for name in summary)


def test_it_is_evaluated_embedded_exported_and_reported(
    trained, tmp_path: Path
) -> None:
    name, workdir, _ = trained
    config = evaluate_config.get_config()
    config.checkpoint = str(workdir)
    config.protocols = "knn"
    config.output = str(tmp_path)
    arguments = {key: value for key, value in config.items() if key != "task"}
    evaluate(**arguments)
    assert [*(tmp_path / "cards").glob("*.json")]
    file = export(
        checkpoint=str(workdir),
        what="backbone",
        format="npz",
        output=str(tmp_path / "w.npz"),
    )
    assert "conv1.weight" in np.load(file)
    memory = restore_memory(workdir)
    assert (memory.rows is None) == (name not in WITH_BANK)
    assert (memory.neighbors is None) == (name not in WITH_GRAPH)
    assert bool(memory.arrays) == (name != "tracking")
    (tmp_path / "new").mkdir()
    Image.fromarray(tiny.pictures()[3, :, :, 0]).save(tmp_path / "new" / "3.png")
    config = embed_config.get_config()
    config.update({"checkpoint": str(workdir), "folder": str(tmp_path / "new")})
    config.output = str(tmp_path / "embedded.npz")
    arguments = {key: value for key, value in config.items() if key != "task"}
    found = np.load(embed_folder(**arguments))
    assert found["neighbors"][0, 0] == 3
    page = write_report(
        workdir=str(workdir), output=str(tmp_path / "page.html")
    ).read_text()
    assert "kNN accuracy" in page
    assert ("effective rank" in page) == (memory.rows is not None)


def test_no_shared_module_speaks_of_one_method() -> None:
    words = re.compile(
        r"\b(bank|graph|propagation|propagates|purity|centroids?|clusterings?|odc|coke|unmix)\b",
        re.IGNORECASE,
    )
    own = {f"{NAME}.{name}" for name in ("methods", *CORE)}
    found = []
    for module, path in MODULES.items():
        # A graph is something else there.
        if (
            module in (NAME, f"{NAME}.models.onnx_graph")
            or ".".join(module.split(".")[:2]) in own
        ):
            continue
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^from invariance_propagation\..*", "", text, flags=re.MULTILINE)
        text = re.sub(r"(?i)invariance[_ -]?propagation|onnx_graph", "", text)
        text = text.replace("(idstcv/CoKe, coke/optimizer.py:43)", "")  # a source
        found += [(path.name, word) for word in words.findall(text)]
    assert not found
