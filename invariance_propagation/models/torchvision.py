"""Weights by torchvision's names: from an encoder or its backbone, and back.

A head takes the place of torchvision's classifier: 'linear' is `fc`, 'mlp' is
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
    """What `load_state_dict(strict=True)` of torchvision's network takes.

    Args:
      variables: {'params': ..., 'batch_stats': ...} of a ResNet, whose namesake has
        `fc = nn.Identity()`; or of an encoder, whose namesake has its head as `fc`.

    Returns:
      float32 arrays by name, and BatchNorm's counters, int64 [], at 0.
    """
    weights = {}
    for path, name in _names(variables).items():
        x = np.asarray(_lookup(variables, path), np.float32)
        # What is only a transposed view would be written as it lies in memory.
        weights[name] = np.ascontiguousarray(x.transpose(_to_torch(x.ndim)))
        if name.endswith("running_var"):
            counter = name.replace("running_var", COUNTER)
            weights[counter] = np.zeros((), np.int64)
    return weights


def from_torchvision(
    weights: Mapping[str, np.ndarray], target: Mapping[str, Any]
) -> dict[str, Any]:
    """The reverse of `to_torchvision`.

    Args:
      weights: arrays by torchvision's names, as `strip_prefix` leaves them. Counters
        need not be there; `fc.*` is not looked at where `target` has no head.
      target: shapes of the variables wanted, as of `variable_shapes`.

    Returns:
      {'params': ..., 'batch_stats': ...} of float32 arrays.

    Raises:
      UserError: a name that is missing or that has no place, another shape, or a
        value that is not finite.
    """
    names = _names(target)
    has_head = any(name.startswith("fc.") for name in names.values())
    for name in weights:
        ignored = name.endswith(COUNTER) or (is_head(name) and not has_head)
        if name not in names.values() and not ignored:
            raise UserError(
                f"the weights hold {name}, which this network lacks: choose weights "
                "of a ResNet-18 or ResNet-50, or encoder.depth to fit them"
            )
    found = {}
    for path, name in names.items():
        if name not in weights:
            raise UserError(f"the weights lack {name}, which this network has")
        shape = _lookup(target, path).shape
        expected = tuple(shape[axis] for axis in _to_torch(len(shape)))
        x = np.asarray(weights[name], np.float32)
        if x.shape != expected:
            raise UserError(
                f"{name} has shape {list(x.shape)}, this network wants "
                f"{list(expected)}: choose encoder.depth, stem, width (and the "
                "images' channels) to fit the weights"
            )
        if not np.isfinite(x).all():
            raise UserError(f"{name} holds values that are not finite")
        found[path] = x.transpose(np.argsort(_to_torch(x.ndim)))
    return unflatten_dict(found)


def strip_prefix(
    weights: Mapping[str, np.ndarray], prefix: str | None = None
) -> dict[str, np.ndarray]:
    """One network out of a file that may hold more, such as MoCo's.

    Args:
      weights: arrays by name.
      prefix: what stands before torchvision's names, e.g. 'module.encoder_q.'; None:
        found, if there is but one.

    Returns:
      The arrays whose names start so, without it; the others are left out.

    Raises:
      UserError: no such network, or several.
    """
    last = "layer1.0.conv1.weight"
    found = sorted(name.removesuffix(last) for name in weights if name.endswith(last))
    if prefix is None and len(found) > 1:
        raise UserError(
            "the weights hold several networks, by names that begin with "
            f"{' or '.join(map(repr, found))}: leave all but one out of the file"
        )
    if not found or prefix not in (None, *found):
        there = ", ".join(map(repr, found or sorted(weights)[:3]))
        raise UserError(
            f"no ResNet by torchvision's names with prefix={prefix!r}; there is {there}"
        )
    prefix = found[0] if prefix is None else prefix
    return {
        name.removeprefix(prefix): x
        for name, x in weights.items()
        if name.startswith(prefix)
    }


def infer_backbone(weights: Mapping[str, np.ndarray]) -> tuple[ResNet, int]:
    """The ResNet that weights by torchvision's names are of, and its input channels.

    Raises:
      UserError: there is no such stem.
    """
    stem = weights.get("conv1.weight", np.empty(0))
    sizes = {7: "imagenet", 3: "cifar"}
    if stem.ndim != 4 or stem.shape[3] not in sizes:
        raise UserError(
            f"conv1.weight has shape {list(stem.shape)}: a ResNet's has 4 axes, "
            "the last of size 7, or 3 for small images"
        )
    depth = 50 if "layer1.0.conv3.weight" in weights else 18
    return ResNet(depth, sizes[stem.shape[3]], stem.shape[0]), stem.shape[1]


def variable_shapes(module: nn.Module, channels: int) -> dict[str, Any]:
    """{'params': ..., 'batch_stats': ...} of jax.ShapeDtypeStruct."""
    images = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda *args: module.init(*args, train=False), key, images)


def is_head(name: str) -> bool:
    """Whether it belongs to what stands behind the backbone."""
    return name.startswith("fc.")


def _names(variables: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Path of each leaf -> torchvision's name."""
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
    """How axes are moved: HWIO -> OIHW, [in, out] -> [out, in]."""
    return {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]
