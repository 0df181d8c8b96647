"""Restores networks from a checkpoint or from a file of weights.

Needs neither the data set nor the devices of the run. Writes and moves nothing, so the
run may still be training.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from invariance_propagation import settings
from invariance_propagation.models import Headless, ResNet, make_encoder
from invariance_propagation.models.torchvision import (
    from_torchvision,
    infer_backbone,
    is_head,
    strip_prefix,
    to_torchvision,
    variable_shapes,
)
from invariance_propagation.store.memory import method_of
from invariance_propagation.store.reading import Source, find_source, read_checkpoint
from invariance_propagation.store.weights import input_of, read_weights


class Restored(NamedTuple):
    """The encoder of a checkpoint.

    Attributes:
      encoder: as in training, with its dtype and device axis; only the backbone if the
        heads belong to a method from outside this package.
      params, batch_stats: of the encoder, NumPy arrays.
      channels: of its images.
      config: of the run, plain dicts.
      step: steps done.
      facts: what the run noted about itself.
    """

    encoder: nn.Module
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    channels: int
    config: dict[str, Any]
    step: int
    facts: dict[str, Any]

    @property
    def has_head(self) -> bool:
        """Whether the encoder includes its heads."""
        return not isinstance(self.encoder, Headless)


class Backbone(NamedTuple):
    """A backbone from a checkpoint or a file.

    Attributes:
      module: computes in float32.
      params, batch_stats: NumPy arrays.
      channels: of its images.
    """

    module: ResNet
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    channels: int

    def digest(self) -> str:
        """Names the weights; a checkpoint and the file exported from it get one name."""
        weights = to_torchvision(
            {"params": self.params, "batch_stats": self.batch_stats}
        )
        return _digest(weights)


class Trained(NamedTuple):
    """Holds what a source leads to.

    Attributes:
      backbone: its backbone.
      run: the encoder of a run; None for a file of weights.
      input: size, mean and std of the images that it was trained with; None if they are
        not known.
    """

    backbone: Backbone
    run: Restored | None
    input: Mapping[str, Any] | None


def restore(source: Source) -> Trained:
    """Restores what a source leads to; raises errors as `restore_backbone` does."""
    if source.workdir is None:
        backbone = _backbone_of_file(source, prefix=None)
        return Trained(backbone, run=None, input=input_of(source.path))
    run = _encoder_of_run(source)
    return Trained(backbone_of(run), run, run.config["augment"])


def restore_encoder(path: str | Path) -> Restored:
    """Restores the encoder of a run.

    Args:
      path: a run's workdir, whose newest whole checkpoint is read; or the folder of one
        step.

    Raises:
      UserError: there is no checkpoint.
      TrainingError: there are checkpoints, but none can be read.
    """
    return _encoder_of_run(find_source(path))


def _encoder_of_run(source: Source) -> Restored:
    state, facts = read_checkpoint(source.path, ("params", "batch_stats"))
    config = settings.by_new_names(facts["config"])
    encoder: nn.Module = settings.call(make_encoder, "encoder", config)
    params, batch_stats = state["params"], state["batch_stats"]
    channels = params["backbone"]["stem_conv"]["kernel"].shape[2]
    head = variable_shapes(encoder, channels)["params"].keys() - {"backbone"}
    if not head <= params.keys():  # the method brings another network
        method = method_of(facts)
        encoder = Headless(encoder.backbone) if method is None else method.encoder
    return Restored(
        encoder,
        params,
        batch_stats,
        channels=channels,
        config=facts["config"],
        step=facts["step"],
        facts=facts,
    )


def restore_backbone(path: str | Path, *, prefix: str | None = None) -> Backbone:
    """Restores the backbone of a run, or of a file with torchvision's names.

    Args:
      path: as for `restore_encoder`; or a .safetensors or .npz file.
      prefix: of the names in such a file, see `strip_prefix`.

    Raises:
      UserError: there is nothing to restore, or it is neither a ResNet-18 nor a ResNet-50.
      TrainingError: a checkpoint cannot be read.
    """
    source = find_source(path)
    if source.workdir is None:
        return _backbone_of_file(source, prefix=prefix)
    return backbone_of(_encoder_of_run(source))


def _backbone_of_file(source: Source, *, prefix: str | None) -> Backbone:
    weights = read_weights(source.path)
    weights = strip_prefix(weights, prefix)
    module, channels = infer_backbone(weights)
    variables = from_torchvision(weights, variable_shapes(module, channels))
    left_out = ", ".join(filter(is_head, weights))
    if left_out:
        print(f"{source.name}: left out the layers behind the backbone: {left_out}")
    return Backbone(module, **variables, channels=channels)


def backbone_of(restored: Restored) -> Backbone:
    """Takes the backbone, in float32, out of an encoder."""
    return Backbone(
        float32(restored.encoder).backbone,
        restored.params["backbone"],
        restored.batch_stats["backbone"],
        restored.channels,
    )


def float32(encoder: nn.Module) -> nn.Module:
    """Returns the same network for one device, in float32."""
    backbone = encoder.backbone.clone(
        dtype=np.float32, norm_axis_name=None, norm_group=0
    )
    if hasattr(encoder, "dtype"):  # that of its heads
        return encoder.clone(backbone=backbone, dtype=np.float32)
    return encoder.clone(backbone=backbone)


def digest_of(params: dict[str, Any], batch_stats: dict[str, Any]) -> str:
    """Names all weights of a network, heads included: 16 hex digits of SHA-256."""
    variables = {"params": params, "batch_stats": batch_stats}
    return _digest(flatten_dict(variables, sep="/"))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, x in sorted(arrays.items()):
        digest.update(f"{name} {x.shape} ".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()[:16]
