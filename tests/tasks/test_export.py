"""Runs exports in PyTorch and ONNX Runtime, and checks what is refused."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from invariance_propagation import phases
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.store.restore import (
    float32,
    restore_backbone,
    restore_encoder,
)
from invariance_propagation.tasks import export as module
from invariance_propagation.tasks.export import export
from tests.reference.fixed import fixed_images
from tests.stored_run import DIM, IDS, store_run

DEFAULTS = {"what": "backbone", "format": "", "output": ""}


def run_export(checkpoint: Path, **options: str) -> Path:
    return export(checkpoint=str(checkpoint), **(DEFAULTS | options))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, store_run(workdir, norm_group=0, dtype="bfloat16")


@pytest.fixture(scope="module")
def expected(stored):
    """Returns images, and the newest checkpoint's outputs in Flax, in float32."""
    restored = restore_encoder(stored[0])
    variables = {"params": restored.params, "batch_stats": restored.batch_stats}
    encoder = float32(restored.encoder)
    images = fixed_images(3, 9, 1)
    run = jax.jit(lambda x: encoder.apply(variables, x, train=False))
    return images, run(images.transpose(0, 2, 3, 1))


def torch_network(reference: ModuleType, head: str):
    network = reference.TorchResNet(18, "cifar", 4, channels=1)
    if head == "mlp":
        layers = (
            reference.nn.Linear(32, 6),
            reference.nn.ReLU(),
            reference.nn.Linear(6, DIM),
        )
        network.fc = reference.nn.Sequential(*layers)
    return network


def read(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path)) if path.suffix == ".npz" else load_file(path)


@pytest.mark.parametrize("format", ["safetensors", "npz"])
@pytest.mark.parametrize("what", ["backbone", "encoder"])
def test_torchvision_takes_the_weights(
    stored, expected, tmp_path: Path, what: str, format: str
) -> None:
    # Only this test needs PyTorch. After a first import that failed, a second one finds
    # half of the module.
    pytest.importorskip("torch")
    from tests.reference import torchvision_resnet as reference

    path = run_export(
        stored[0], what=what, format=format, output=str(tmp_path / f"w.{format}")
    )
    network = torch_network(reference, "mlp" if what == "encoder" else "none")
    network = reference.load(network, read(path))  # strict: each name, and no other
    images, outputs = expected
    wanted = outputs.embedding if what == "encoder" else outputs.features
    np.testing.assert_allclose(
        reference.run(network, images), wanted, rtol=0, atol=module.ALLOWED
    )
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        path.name,
        f"{path.name}.json",
    ]


@pytest.mark.parametrize("what", ["backbone", "encoder"])
def test_onnx_runtime_takes_the_graph(stored, expected, tmp_path, what) -> None:
    path = tmp_path / "new folder" / "w.onnx"
    run_export(stored[0], what=what, format="onnx", output=str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, outputs = expected
    found = session.run(None, {"images": images})
    assert len(found) == (2 if what == "encoder" else 1)
    for x, wanted in zip(found, outputs, strict=False):
        np.testing.assert_allclose(x, wanted, rtol=0, atol=module.ALLOWED)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["invariance_propagation"])["source"]["step"] == 7


def test_what_was_compared_lies_beside_the_file(stored) -> None:
    workdir, _ = stored
    path = run_export(workdir)
    assert path == workdir / "backbone-7.safetensors"
    about = json.loads((workdir / "backbone-7.safetensors.json").read_text())
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about["source"]["step"] == 7 and about["source"]["num_examples"] == len(IDS)
    assert about["input"]["mean"] == [0.306] and about["input"]["size"] == 8
    check = about["check"]
    assert check["allowed"] == 1e-4 * max(1, check["largest_value"])
    assert 0 < check["largest_difference"] < check["allowed"]
    assert about["versions"].keys() >= {"jax", "onnxruntime", "safetensors"}
    with safe_open(path, "numpy") as file:
        notes = file.metadata()
    assert notes["format"] == "pt"
    assert json.loads(notes["invariance_propagation"])["source"] == about["source"]
    # Reading it back gives the same backbone.
    there, here = restore_backbone(path), restore_backbone(workdir)
    assert there.digest() == here.digest() == about["source"]["backbone"]


def test_one_step_is_exported_into_its_workdir(stored, monkeypatch, capsys) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    workdir, _ = stored
    path = run_export(workdir / "checkpoints" / "3", format="npz")
    assert path == workdir / "backbone-3.npz"
    text = capsys.readouterr().out
    for phase in ("reading", "writing the backbone of step 3 as npz", "comparing"):
        assert re.search(rf"^{phase}.*: \d+\.\d s$", text, re.MULTILINE), phase


def test_the_largest_difference_is_the_largest(stored, monkeypatch) -> None:
    workdir, _ = stored
    restored = restore_encoder(workdir)
    size = restored.config["augment"]["size"]
    features = module.flax_outputs(
        restored, np.random.RandomState(0).standard_normal((2, 1, size, size))
    )["features"].copy()
    features[1, 5] += 3e-5
    monkeypatch.setattr(module, "flax_outputs", lambda *_: {"features": features})
    path = run_export(workdir, format="npz")
    check = json.loads(path.with_name(path.name + ".json").read_text())["check"]
    np.testing.assert_allclose(check["largest_difference"], 3e-5, atol=5e-6)
    np.testing.assert_allclose(check["largest_value"], features.max(), rtol=1e-6)


def swap_kernel_axes(weights: dict) -> None:
    name = "layer1.0.conv1.weight"
    weights[name] = np.ascontiguousarray(weights[name].swapaxes(2, 3))


def spoil_a_value(weights: dict) -> None:
    weights["layer4.1.bn2.bias"][3] = np.nan


def swap_statistics(weights: dict) -> None:
    mean, var = (f"layer2.0.bn1.running_{x}" for x in ("mean", "var"))
    weights[mean], weights[var] = weights[var], abs(weights[mean])


@pytest.mark.parametrize("format", ["safetensors", "npz", "onnx"])
@pytest.mark.parametrize("fault", [swap_kernel_axes, spoil_a_value, swap_statistics])
def test_another_network_is_refused(
    stored, tmp_path: Path, monkeypatch, fault, format: str
) -> None:
    right = module.to_torchvision

    def wrong(variables):
        weights = right(variables)
        fault(weights)
        return weights

    monkeypatch.setattr(module, "to_torchvision", wrong)
    with pytest.raises(TrainingError, match="differ .* by .*e-04 is allowed"):
        run_export(stored[0], format=format, output=str(tmp_path / f"w.{format}"))
    assert not list(tmp_path.iterdir())


def test_the_memory_is_exported_with_its_ids(stored) -> None:
    workdir, states = stored
    path = run_export(workdir, what="memory")
    assert path == workdir / "memory-7.npz"
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["bank", "graph", "sample_ids"]
        np.testing.assert_array_equal(arrays["bank"], states[7].memory.bank)
        np.testing.assert_array_equal(arrays["graph"], states[7].memory.graph)
        assert arrays["sample_ids"].tolist() == IDS
    about = json.loads(path.with_name("memory-7.npz.json").read_text())
    assert about["source"]["step"] == 7


def test_a_memory_that_reads_back_otherwise_is_refused(
    stored, tmp_path: Path, monkeypatch
) -> None:
    right = module.read_weights
    monkeypatch.setattr(
        module, "read_weights", lambda path: right(path) | {"graph": np.zeros(1)}
    )
    with pytest.raises(TrainingError, match="other arrays were read back"):
        run_export(stored[0], what="memory", output=str(tmp_path / "m.npz"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"checkpoint": ""}, "--config.checkpoint is missing"),
        ({"checkpoint": "nowhere"}, "nowhere is not a folder"),
        ({"what": "head"}, "what='head': choose one of backbone, encoder, memory"),
        ({"format": "pth"}, "format='pth': backbone is written as safetensors, npz"),
        ({"what": "memory", "format": "onnx"}, "memory is written as npz"),
        ({"output": "{tmp}/w.pth"}, "w.pth: name it .safetensors"),
        ({"output": "{tmp}/folder.safetensors"}, "is a folder: name a file"),
        ({"output": "{tmp}/file/w.safetensors"}, "cannot be written"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    stored, tmp_path: Path, options: dict, expected: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").touch()
    given = {"checkpoint": str(stored[0])} | DEFAULTS | options
    given = {name: x.replace("{tmp}", str(tmp_path)) for name, x in given.items()}
    before = sorted([*tmp_path.rglob("*"), *stored[0].rglob("*")])
    with pytest.raises(UserError, match=expected) as caught:
        export(**given)
    assert "\n" not in str(caught.value)
    assert sorted([*tmp_path.rglob("*"), *stored[0].rglob("*")]) == before


def test_what_is_not_installed_is_named(stored, tmp_path: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda x: None if x == "onnx" else find(x)
    )
    with pytest.raises(UserError, match=r"onnx is not installed: pip .*\[export\]"):
        run_export(stored[0], format="npz", output=str(tmp_path / "w.npz"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run_export(stored[0], what="memory", output=str(tmp_path / "m.npz"))


def test_paths_mean_the_same_as_in_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store_run(tmp_path / "runs[1]\\ \udcff", (7,))
    given = "~/runs[1]\\ \udcff"
    path = run_export(given, what="memory")
    assert path == tmp_path / "runs[1]\\ \udcff" / "memory-7.npz" and path.is_file()
    path = run_export(given, format="npz", output="~/new/w.npz")
    assert path == tmp_path / "new/w.npz" and path.is_file()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"checkpoint": "gs://b/run"}, "checkpoint=gs://b/run is an address"),
        (
            {"checkpoint": "w.npz"},
            "w.npz is a file of weights, and an export is made from",
        ),
        ({"output": "s3://b/w.npz"}, "output=s3://b/w.npz is an address"),
        ({"output": "{file}/x/w.npz"}, "cannot be written"),
    ],
)
def test_places_are_looked_at_before_anything_is_read(
    stored, tmp_path: Path, monkeypatch, options: dict, expected: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "restore_encoder", None)
    options = {k: x.format(file=tmp_path / "file") for k, x in options.items()}
    given = {"checkpoint": str(stored[0])} | DEFAULTS | {"format": "npz"} | options
    with pytest.raises(UserError, match=expected):
        export(**given)
