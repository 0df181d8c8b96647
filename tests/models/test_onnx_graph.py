"""The ONNX graph against PyTorch's network with the same weights."""

import numpy as np
import onnx
import onnxruntime
import pytest

from invariance_propagation.models.onnx_graph import onnx_model
from tests.reference import torchvision_resnet as reference
from tests.reference.fixed import fixed_images, trained_like


def run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})


@pytest.mark.parametrize(
    "depth, stem, width, channels, size",
    [
        (18, "cifar", 4, 1, 9),
        (18, "imagenet", 8, 3, 33),
        (50, "cifar", 4, 3, 8),
        (50, "imagenet", 8, 3, 32),
    ],
)
def test_features_are_pytorchs(depth, stem, width, channels, size) -> None:
    network = reference.TorchResNet(depth, stem, width, channels)
    weights = trained_like(reference.shapes_of(network))
    model = onnx_model(weights, notes={"step": "7"})
    network = reference.load(network, weights)
    # One graph for every batch, height and width.
    for count, side in ((2, size), (1, size + 3)):
        images = fixed_images(count, side, channels)
        (features,) = run(model, images)
        expected = reference.run(network, images)
        assert np.abs(expected).max() > 0.2
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)
    assert [(x.key, x.value) for x in model.metadata_props] == [("step", "7")]
    assert [x.name for x in model.graph.initializer] == [
        name for name in weights if not name.endswith("num_batches_tracked")
    ]


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_gives_embeddings_too(head: str) -> None:
    network = reference.TorchResNet(18, "cifar", 4)
    images = fixed_images(3, 9)
    layers = [reference.nn.Linear(32, 5)]
    if head == "mlp":
        layers = [
            reference.nn.Linear(32, 6),
            reference.nn.ReLU(),
            reference.nn.Linear(6, 5),
        ]
    network.fc = layers[0] if head == "linear" else reference.nn.Sequential(*layers)
    weights = trained_like(reference.shapes_of(network))
    features, embedding = run(onnx_model(weights, notes={}), images)
    expected = reference.run(reference.load(network, weights), images)
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-4)
    network.fc = reference.nn.Identity()
    expected = reference.run(network, images)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)
