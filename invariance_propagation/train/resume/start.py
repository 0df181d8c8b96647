"""Reads the weights that a new run starts from: of another run, or of a file."""

from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from invariance_propagation import settings
from invariance_propagation.errors import UserError
from invariance_propagation.models import Encoder, make_encoder
from invariance_propagation.models.torchvision import variable_shapes
from invariance_propagation.store.reading import find_source
from invariance_propagation.store.restore import restore


class Start(NamedTuple):
    """Holds weights that a network starts from instead of random ones.

    Attributes:
      params, batch_stats: of the backbone, and of the head if its shapes fit; NumPy
        arrays.
      facts: the path and digest of the weights, as JSON.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    facts: dict[str, Any]


def start_of(config: ConfigDict) -> Start | None:
    """Reads the weights that a config names, and says so; None if it names none."""
    if not config.weights:
        return None
    encoder = settings.call(make_encoder, "encoder", config)
    start = read_start(
        config.weights, encoder=encoder, channels=len(config.augment.mean)
    )
    what = "backbone and head" if start.facts["head"] else "the backbone"
    print(
        f"starting from {what} of {config.weights}: 'untrained' below means these weights"
    )
    return start


def read_start(path: str, *, encoder: Encoder, channels: int) -> Start:
    """Reads weights that fit an encoder.

    Args:
      path: as for `restore_backbone`.
      encoder: the encoder to train.
      channels: of its images.

    Raises:
      UserError: there are no weights, or they belong to another backbone.
      TrainingError: a checkpoint cannot be read.
    """
    trained = restore(find_source(path))
    backbone, head = trained.backbone, {}
    if trained.run is not None:
        head = {name: x for name, x in trained.run.params.items() if name != "backbone"}
    shapes = variable_shapes(encoder, channels)
    wanted = dict(shapes["params"])
    _check_backbone(path, backbone.params, wanted.pop("backbone"))
    head = head if _shapes(head) == _shapes(wanted) else {}
    facts = {"path": path, "digest": backbone.digest(), "head": bool(head)}
    params = {"backbone": backbone.params} | head
    return Start(params, {"backbone": backbone.batch_stats}, facts)


def _check_backbone(path: str, weights: dict[str, Any], wanted: dict[str, Any]) -> None:
    weights, wanted = _shapes(weights), _shapes(wanted)
    for name in sorted(weights | wanted):
        if weights.get(name) != wanted.get(name):
            raise UserError(
                f"weights={path} are of another backbone ({name}: {weights.get(name)}, "
                f"this config has {wanted.get(name)}): set encoder.depth, stem and "
                "width, and the channels of augment.mean, as they were"
            )


def _shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in flatten_dict(tree, sep=".").items()}
