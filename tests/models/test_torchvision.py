"""Weights by torchvision's names, against PyTorch in both directions."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from invariance_propagation.errors import UserError
from invariance_propagation.models import Encoder, ResNet
from invariance_propagation.models.torchvision import (
    from_torchvision,
    infer_backbone,
    strip_prefix,
    to_torchvision,
    variable_shapes,
)
from tests.reference import torchvision_resnet as reference
from tests.reference.fixed import fixed_images, trained_like

RECORD = Path(reference.__file__).parent / "torchvision.json"
TOLERANCE = 1e-4  # of features of order 1


def torch_network(depth, stem, width=64, channels=3, head=None):
    network = reference.TorchResNet(depth, stem, width, channels)
    if head is not None:
        network.fc = head
    return network


def flax_variables(weights, module, channels=3):
    return from_torchvision(weights, variable_shapes(module, channels))


def flax_outputs(module, variables, images):
    run = jax.jit(functools.partial(module.apply, train=False))
    return run(variables, images.transpose(0, 2, 3, 1))


def assert_close(found, expected):
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("depth", [18, 50])
def test_the_reference_is_torchvision(depth: int, record) -> None:
    recorded = record[f"resnet{depth}"]
    network = torch_network(depth, "imagenet")
    shapes = reference.shapes_of(network)
    assert {
        name: "x".join(map(str, shape)) for name, shape in shapes.items()
    } == recorded["shapes"]
    network = reference.load(network, trained_like(shapes))
    features = reference.run(network, fixed_images(2, 64))
    found = features[:, :: recorded["step"]]
    np.testing.assert_allclose(found, recorded["features"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_weights_run_here(depth: int, record) -> None:
    shapes = reference.shapes_of(torch_network(depth, "imagenet"))
    weights = trained_like(shapes)
    module, channels = infer_backbone(weights)
    assert (module.depth, module.stem, module.width) == (depth, "imagenet", 64)
    variables = flax_variables(weights, module, channels)
    features = flax_outputs(module, variables, fixed_images(2, 64))
    recorded = record[f"resnet{depth}"]
    assert_close(features[:, :: recorded["step"]], np.array(recorded["features"]))


@pytest.mark.parametrize(
    "depth, stem, width, channels, size",
    [
        (18, "cifar", 4, 1, 9),
        (18, "imagenet", 8, 3, 33),
        (50, "cifar", 4, 3, 8),
        (50, "imagenet", 4, 1, 32),
    ],
)
def test_both_directions(depth, stem, width, channels, size) -> None:
    network = torch_network(depth, stem, width, channels)
    weights = trained_like(reference.shapes_of(network))
    module = ResNet(depth, stem, width)
    assert infer_backbone(weights) == (module, channels)
    variables = flax_variables(weights, module, channels)
    images = fixed_images(2, size, channels)
    features = flax_outputs(module, variables, images)
    assert_close(features, reference.run(reference.load(network, weights), images))

    back = to_torchvision(variables)
    assert all(x.flags.c_contiguous for x in back.values())
    assert {name: x.dtype for name, x in back.items()} == {
        name: x.dtype for name, x in weights.items()
    }
    for name, x in back.items():
        if name.endswith("num_batches_tracked"):
            assert x == 0
        else:
            np.testing.assert_array_equal(x, weights[name])
    network = torch_network(depth, stem, width, channels)
    assert_close(features, reference.run(reference.load(network, back), images))


def torch_head(head: str, features: int, hidden: int, dim: int) -> reference.nn.Module:
    if head == "linear":
        return reference.nn.Linear(features, dim)
    return reference.nn.Sequential(
        reference.nn.Linear(features, hidden),
        reference.nn.ReLU(),
        reference.nn.Linear(hidden, dim),
    )


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_is_fc(head: str) -> None:
    module = Encoder(ResNet(18, "cifar", 4), head, hidden=6, dim=5)
    network = torch_network(18, "cifar", 4, head=torch_head(head, 32, 6, 5))
    weights = trained_like(reference.shapes_of(network))
    variables = flax_variables(weights, module)
    images = fixed_images(2, 9)
    outputs = flax_outputs(module, variables, images)
    assert_close(
        outputs.embedding, reference.run(reference.load(network, weights), images)
    )
    back = to_torchvision(variables)
    assert back.keys() == weights.keys()
    # A backbone alone takes the same weights and leaves the head out.
    alone = flax_variables(weights, ResNet(18, "cifar", 4))
    jax.tree.map(
        np.testing.assert_array_equal, alone["params"], variables["params"]["backbone"]
    )


@pytest.fixture
def weights():
    return trained_like(reference.shapes_of(torch_network(18, "cifar", width=2)))


@pytest.fixture
def target():
    return variable_shapes(ResNet(18, "cifar", 2), 3)


def test_counters_need_not_be_there(weights, target) -> None:
    few = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert len(few) == len(weights) - 20
    jax.tree.map(
        np.testing.assert_array_equal,
        from_torchvision(few, target),
        from_torchvision(weights, target),
    )


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "backbone.", ""])
def test_a_prefix_is_found(prefix: str, weights) -> None:
    held = {prefix + name: x for name, x in weights.items()}
    if prefix:
        held |= {"module.queue": np.zeros(3), "head.weight": np.zeros(2)}
    assert strip_prefix(held) == weights


def test_one_of_several_networks_is_chosen(weights) -> None:
    other = {name: x + 1 for name, x in weights.items()}
    held = {f"module.encoder_q.{name}": x for name, x in weights.items()}
    held |= {f"module.encoder_k.{name}": x for name, x in other.items()}
    assert strip_prefix(held, "module.encoder_k.") == other
    both = r"several .* 'module.encoder_k.' or 'module.encoder_q.': leave all but"
    with pytest.raises(UserError, match=both):
        strip_prefix(held)
    with pytest.raises(UserError, match="prefix='teacher.'; there is 'module.enc"):
        strip_prefix(held, "teacher.")
    with pytest.raises(UserError, match="there is 'patch_embed'"):
        strip_prefix({"patch_embed": np.zeros(3)})


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"layer2.0.downsample.1.bias": None}, "lack layer2.0.downsample.1.bias"),
        ({"layer3.2.conv1.weight": np.zeros(3)}, "hold layer3.2.conv1.weight"),
        ({"bn1.bias": np.zeros(3)}, r"bn1.bias has shape \[3\].* wants \[2\]"),
        (
            {"conv1.weight": np.zeros((2, 3, 7, 7))},
            r"conv1.weight has shape \[2, 3, 7, 7\], .* wants \[2, 3, 3, 3\]",
        ),
        ({"bn1.bias": np.array([1, np.nan])}, "bn1.bias holds .* not finite"),
    ],
)
def test_what_does_not_fit_is_named(change, expected, weights, target) -> None:
    weights |= change
    weights = {name: x for name, x in weights.items() if x is not None}
    with pytest.raises(UserError, match=expected) as caught:
        from_torchvision(weights, target)
    assert "\n" not in str(caught.value)


def test_a_head_that_is_wanted_must_be_there(weights) -> None:
    module = Encoder(ResNet(18, "cifar", 2), "mlp", hidden=6, dim=5)
    with pytest.raises(UserError, match="lack fc.0"):
        flax_variables(weights, module)


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 3)])
def test_another_stem_is_refused(shape, weights) -> None:
    with pytest.raises(UserError, match=r"conv1.weight has shape \[2, 3"):
        infer_backbone(weights | {"conv1.weight": np.zeros(shape)})
