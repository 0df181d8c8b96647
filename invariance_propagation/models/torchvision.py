"""Converts weights of an encoder or backbone to torchvision's names, and back.

A head takes the place of torchvision's classifier: 'linear' becomes `fc`, 'mlp' becomes
`fc.0` and `fc.2`, as in nn.Sequential(Linear, ReLU, Linear) and in MoCo v2.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from invariance_propagation.errors import UserError
from invariance_propagation.models.resnet import ResNet

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
MODULES = (
    (r"^backbone\.", ""),
    (r"^stem_conv", "conv1"),
    (r"^stem_norm", "bn1"),
    (r"^layer(\d)_block(\d+)", r"layer\1.\2"),
    (r"downsample_conv", "downsample.0"),
    (r"downsample_norm", "downsample.1"),
    (r"norm(\d)", r"bn\1"),
    (r"^head_hidden", "fc.0"),
)
COUNTER = "num_batches_tracked"


def to_torchvision(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables for `load_state_dict(strict=True)` of torchvision's network.

    Args:
      variables: {'params': ..., 'batch_stats': ...} of a ResNet, for a torchvision
        network with `fc = nn.Identity()`; or of an encoder, for one whose `fc` is the
        encoder's head.

    Returns:
      float32 arrays by name, and BatchNorm's counters, int64 [], at 0.
    """
    weights = {}
    for path, name in _names(variables).items():
        x = np.asarray(_lookup(variables, path), np.float32)
        # safetensors would write a transposed view in the order of its memory.
        weights[name] = np.ascontiguousarray(x.transpose(_to_torch(x.ndim)))
        if name.endswith("running_var"):
            counter = name.replace("running_var", COUNTER)
            weights[counter] = np.zeros((), np.int64)
    return weights


def from_torchvision(
    weights: Mapping[str, np.ndarray], target: Mapping[str, Any]
) -> dict[str, Any]:
    """Converts weights with torchvision's names to variables.

    Args:
      weights: arrays by name, as `strip_prefix` returns them. Counters may be missing;
        `fc.*` is ignored if `target` has no head.
      target: shapes of the variables, as `variable_shapes` returns them.

    Returns:
      {'params': ..., 'batch_stats': ...} of float32 arrays.

    Raises:
      UserError: a name is missing or unknown, a shape differs, or a value is not finite.
    """
    names = _names(target)
    has_head = any(name.startswith("fc.") for name in names.values())
    for name in weights:
        ignored = name.endswith(COUNTER) or (is_head(name) and not has_head)
        if name not in names.values() and not ignored:
            raise UserError(
                f"the weights hold {name}, which this network lacks: choose weights "
                "of a ResNet-18 or ResNet-50, or set encoder.depth to fit them"
            )
    arrays = {}
    for path, name in names.items():
        if name not in weights:
            raise UserError(f"the weights lack {name}, which this network has")
        shape = _lookup(target, path).shape
        expected = tuple(shape[axis] for axis in _to_torch(len(shape)))
        x = np.asarray(weights[name], np.float32)
        if x.shape != expected:
            raise UserError(
                f"{name} has shape {list(x.shape)}, this network wants "
                f"{list(expected)}: set encoder.depth, encoder.stem and encoder.width "
                "(and choose images with as many channels) to fit the weights"
            )
        if not np.isfinite(x).all():
            raise UserError(f"{name} holds values that are not finite")
        arrays[path] = x.transpose(np.argsort(_to_torch(x.ndim)))
    return unflatten_dict(arrays)


def strip_prefix(
    weights: Mapping[str, np.ndarray], prefix: str | None = None
) -> dict[str, np.ndarray]:
    """Takes one network out of weights that may hold several, such as MoCo's.

    Args:
      weights: arrays by name.
      prefix: text before torchvision's names, e.g. 'module.encoder_q.'; None to find
        it, which works if there is only one network.

    Returns:
      The arrays whose names start with the prefix, without it.

    Raises:
      UserError: there is no such network, or there are several.
    """
    last = "layer1.0.conv1.weight"
    prefixes = sorted(
        name.removesuffix(last) for name in weights if name.endswith(last)
    )
    if prefix is None and len(prefixes) > 1:
        raise UserError(
            "the weights hold several networks, with names that begin with "
            f"{' or '.join(map(repr, prefixes))}: leave all but one out of the file"
        )
    if not prefixes or prefix not in (None, *prefixes):
        there = ", ".join(map(repr, prefixes or sorted(weights)[:3]))
        raise UserError(
            f"no ResNet with torchvision's names and prefix={prefix!r}; there is {there}"
        )
    prefix = prefixes[0] if prefix is None else prefix
    return {
        name.removeprefix(prefix): x
        for name, x in weights.items()
        if name.startswith(prefix)
    }


def infer_backbone(weights: Mapping[str, np.ndarray]) -> tuple[ResNet, int]:
    """Derives a ResNet and its input channels from weights with torchvision's names.

    Raises:
      UserError: the first convolution is not that of a ResNet.
    """
    stem = weights.get("conv1.weight", np.empty(0))
    sizes = {7: "imagenet", 3: "cifar"}
    if stem.ndim != 4 or stem.shape[3] not in sizes:
        raise UserError(
            f"conv1.weight has shape {list(stem.shape)}: a ResNet's has 4 axes, "
            "the last of size 7, or 3 for small images"
        )
    basic = 18 if "layer3.0.conv1.weight" in weights else 6
    depth = 50 if "layer1.0.conv3.weight" in weights else basic
    return ResNet(depth, sizes[stem.shape[3]], stem.shape[0]), stem.shape[1]


def variable_shapes(module: nn.Module, channels: int) -> dict[str, Any]:
    """Returns {'params': ..., 'batch_stats': ...} of jax.ShapeDtypeStruct."""
    images = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda *args: module.init(*args, train=False), key, images)


def is_head(name: str) -> bool:
    """Returns whether a weight belongs to the head, not the backbone."""
    return name.startswith("fc.")


def _names(variables: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Maps the path of each leaf to torchvision's name."""
    paths = flatten_dict(variables)
    return {path: _name(path, paths) for path in paths}


def _name(path: tuple[str, ...], paths: Iterable[tuple[str, ...]]) -> str:
    _, *modules, leaf = path
    name = ".".join(modules)
    for pattern, replacement in MODULES:
        name = re.sub(pattern, replacement, name)
    is_mlp = ("params", "head_hidden", "kernel") in paths
    name = name.replace("head_output", "fc.2" if is_mlp else "fc")
    return f"{name}.{LEAVES[leaf]}"


def _lookup(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _to_torch(ndim: int) -> tuple[int, ...]:
    """Returns the permutation of axes: HWIO -> OIHW, [in, out] -> [out, in]."""
    return {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]
