"""Builds a ResNet as an ONNX graph from weights with torchvision's names.

It follows torchvision's structure and PyTorch's axes, not `resnet.py`. If both compute
the same from the same weights, names and axes are right.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from invariance_propagation.models.resnet import STAGES
from invariance_propagation.models.torchvision import COUNTER, infer_backbone

if TYPE_CHECKING:
    import onnx

# From 2021, so that runtimes of the years since can read it.
OPSET, IR_VERSION = 17, 8


def onnx_model(
    weights: Mapping[str, np.ndarray], *, notes: Mapping[str, str]
) -> "onnx.ModelProto":
    """Builds the network in evaluation mode, for any batch size, height and width.

    Args:
      weights: arrays as `to_torchvision` returns them, or read from a file.
      notes: metadata to store in the model.

    Returns:
      A model that maps 'images', float32 [batch, channels, height, width], to 'features',
      float32 [batch, F], and, if the weights hold a head, to 'embedding', [batch, dim].
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    backbone, channels = infer_backbone(weights)
    graph = _Graph(weights)
    x = graph.conv(
        "images", "conv1", "bn1", stride=2 if backbone.stem != "cifar" else 1
    )
    x = graph.add("Relu", x)
    if backbone.stem == "imagenet":
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, num_blocks in enumerate(STAGES[backbone.depth][1], start=1):
        for index in range(num_blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            x = graph.block(x, f"layer{stage}.{index}", stride, backbone.depth)
    x = graph.add("GlobalAveragePool", x)
    features = graph.add("Flatten", x, output="features", axis=1)
    outputs = ["features"]
    if any(name.startswith("fc.") for name in weights):
        graph.head(features, output="embedding")
        outputs.append("embedding")

    def value(name: str, *axes: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"resnet{backbone.depth}",
            [value("images", "batch", channels, "height", "width")],
            [value(name, "batch", f"{name}_size") for name in outputs],
            [
                numpy_helper.from_array(np.asarray(x), name)
                for name, x in weights.items()
                if not name.endswith(COUNTER)
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="invariance_propagation",
    )
    helper.set_model_props(model, dict(notes))
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Collects nodes in order; outputs without a name get a numbered one."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self.nodes: list[Any] = []
        self._weights = weights

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        from onnx import helper

        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def conv(self, x: str, conv: str, norm: str, *, stride: int) -> str:
        """Adds a convolution that keeps the size at stride 1, and its BatchNorm."""
        size = self._weights[f"{conv}.weight"].shape[-1]
        x = self.add(
            "Conv",
            x,
            f"{conv}.weight",
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )
        leaves = ("weight", "bias", "running_mean", "running_var")
        names = [f"{norm}.{leaf}" for leaf in leaves]
        return self.add("BatchNormalization", x, *names, epsilon=1e-5)

    def block(self, x: str, name: str, stride: int, depth: int) -> str:
        """Adds a BasicBlock, or a Bottleneck with the stride on its 3x3 convolution."""
        strides = [1, stride, 1] if depth == 50 else [stride, 1]
        y = x
        for n, step in enumerate(strides, start=1):
            y = self.conv(y, f"{name}.conv{n}", f"{name}.bn{n}", stride=step)
            y = self.add("Relu", y) if n < len(strides) else y
        down = f"{name}.downsample"
        if f"{down}.0.weight" in self._weights:
            x = self.conv(x, f"{down}.0", f"{down}.1", stride=stride)
        return self.add("Relu", self.add("Add", y, x))

    def head(self, x: str, *, output: str) -> str:
        """Adds the head: `fc`, or `fc.0`, ReLU, `fc.2`."""
        if "fc.weight" in self._weights:
            return self._linear(x, "fc", output)
        return self._linear(self.add("Relu", self._linear(x, "fc.0")), "fc.2", output)

    def _linear(self, x: str, name: str, output: str = "") -> str:
        inputs = (x, f"{name}.weight", f"{name}.bias")
        return self.add("Gemm", *inputs, output=output, transB=1)
