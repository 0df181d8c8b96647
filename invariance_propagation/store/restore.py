"""From a file or folder to networks and memory, without the run they are of.

Neither the data set nor the devices of the run are needed, and nothing is written or
moved: it may still be training.
"""

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import psutil
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from invariance_propagation import settings
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import local, reason
from invariance_propagation.methods import METHODS, Method, Notes, Problem, make_method
from invariance_propagation.models import Headless, ResNet, make_encoder
from invariance_propagation.models.torchvision import (
    from_torchvision,
    infer_backbone,
    is_head,
    strip_prefix,
    to_torchvision,
    variable_shapes,
)
from invariance_propagation.store.checkpoint import (
    FOLDER,
    checksum,
    path_of,
    read_facts,
    read_item,
    steps_in,
    unpack_ids,
)
from invariance_propagation.store.damage import check_machine, check_noted
from invariance_propagation.store.epochs import noted_steps_per_epoch
from invariance_propagation.store.weights import (
    SUFFIXES,
    check_no_pickle,
    is_weights,
    read_weights,
)


class Restored(NamedTuple):
    """The encoder of a checkpoint.

    Attributes:
      encoder: as in training, its type of computation and device axis included; a
        backbone alone if its heads are of a method that is not ours.
      params, batch_stats: of the encoder, NumPy arrays.
      channels: of its images.
      config: of the run, plain dicts.
      step: steps done.
      facts: all that the run has noted of itself.
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
        return not isinstance(self.encoder, Headless)


class Backbone(NamedTuple):
    """A backbone, wherever its weights are from.

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
        """Of the weights: the same for a checkpoint and for what is exported of it."""
        weights = to_torchvision(
            {"params": self.params, "batch_stats": self.batch_stats}
        )
        return _digest(weights)


class StoredMemory(NamedTuple):
    """What a run remembers of its N images.

    Attributes:
      arrays: all of it, by names with dots.
      rows: float32 [N, d], comparable with embeddings; None without.
      neighbors: int32 [N, k], nearest neighbours of each image; None without.
      sample_ids: what the source calls the image of each row; None where it has no
        names, and rows are in the order of the data set.
      facts: all that the run has noted of itself, `step` among it.
    """

    arrays: dict[str, np.ndarray]
    rows: np.ndarray | None
    neighbors: np.ndarray | None
    sample_ids: list[str] | None
    facts: dict[str, Any]

    @property
    def tree(self) -> Any:
        """The memory as a method sees it: arrays in nested dicts."""
        return unflatten_dict(self.arrays, sep=".")


def restore_encoder(path: str | Path) -> Restored:
    """The encoder of a run.

    Args:
      path: its workdir, of which the newest whole checkpoint is taken; or the folder
        of one step.

    Raises:
      UserError: there is no checkpoint.
      TrainingError: there is, but it cannot be read.
    """
    return _encoder_of(*read_checkpoint(path, ("params", "batch_stats")))


def restore_backbone(path: str | Path, *, prefix: str | None = None) -> Backbone:
    """The backbone of a run, or of a file of weights by torchvision's names.

    Args:
      path: as for `restore_encoder`; or a file as for `read_weights`.
      prefix: of the names in such a file, see `strip_prefix`.

    Raises:
      UserError: there is none, or it is no ResNet-18 or ResNet-50.
      TrainingError: a checkpoint that cannot be read.
    """
    if not is_weights(path):
        return backbone_of(restore_encoder(path))
    weights = strip_prefix(read_weights(path), prefix)
    module, channels = infer_backbone(weights)
    variables = from_torchvision(weights, variable_shapes(module, channels))
    left_out = ", ".join(filter(is_head, weights))
    if left_out:
        print(f"{path}: left out what stands behind the backbone: {left_out}")
    return Backbone(module, **variables, channels=channels)


def backbone_of(restored: Restored) -> Backbone:
    module = float32(restored.encoder).backbone
    parts = restored.params["backbone"], restored.batch_stats["backbone"]
    return Backbone(module, *parts, restored.channels)


def restore_memory(path: str | Path) -> StoredMemory:
    """Reads what a run remembers of its images; raises as `restore_encoder` does."""
    return _memory_of(*read_checkpoint(path, ("memory",)))


def float32(encoder: nn.Module) -> nn.Module:
    """Returns the same network for one device, in float32."""
    backbone = encoder.backbone.clone(
        dtype=np.float32, norm_axis_name=None, norm_group=0
    )
    own = {"dtype": np.float32} if hasattr(encoder, "dtype") else {}
    return encoder.clone(backbone=backbone, **own)


def digest_of(params: dict[str, Any], batch_stats: dict[str, Any]) -> str:
    """Names all weights of a network, with its head, by 16 hex digits of SHA-256."""
    variables = {"params": params, "batch_stats": batch_stats}
    return _digest(flatten_dict(variables, sep="/"))


def workdir_of(path: str | Path) -> Path:
    """The workdir that a checkpoint, named as for `restore_encoder`, lies in."""
    path = local(path, key="checkpoint")
    return path.parents[1] if path.parent.name == FOLDER else path


def read_checkpoint(
    path: str | Path, parts: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some parts of a state as nested dicts of NumPy arrays, and the run's facts.

    Args:
      path: as for `restore_encoder`, which also says what is raised.
      parts: fields of `TrainState`.
    """
    reasons = []
    for folder in _step_folders(local(path, key="checkpoint")):
        try:
            facts = read_facts(folder)
            state = _read_parts(folder / "state", parts, facts["arrays"])
        except Exception as error:
            check_machine(error, folder)
            reasons.append(f"{folder} cannot be read ({reason(error)})")
            continue
        for passed_over in reasons:
            logging.warning("%s: taking step %d instead", passed_over, facts["step"])
        check_noted(facts, folder)
        return state, facts
    raise TrainingError("; ".join(reasons) + ": choose another checkpoint")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, x in sorted(arrays.items()):
        digest.update(f"{name} {x.shape} ".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()[:16]


def _encoder_of(state: dict[str, Any], facts: dict[str, Any]) -> Restored:
    config = settings.by_new_names(facts["config"])
    encoder = settings.call(make_encoder, "encoder", config)
    params, batch_stats = state["params"], state["batch_stats"]
    channels = params["backbone"]["stem_conv"]["kernel"].shape[2]
    head = variable_shapes(encoder, channels)["params"].keys() - {"backbone"}
    if not head <= params.keys():  # the method has a network of its own
        method = _method_of(facts)
        encoder = Headless(encoder.backbone) if method is None else method.encoder
    own = {"config": facts["config"], "step": facts["step"], "facts": facts}
    return Restored(encoder, params, batch_stats, channels=channels, **own)


def _memory_of(state: dict[str, Any], facts: dict[str, Any]) -> StoredMemory:
    arrays = flatten_dict(state.get("memory", {}), sep=".")
    parts = facts.get("memory")
    if parts is None:  # an earlier version did not note them
        notes = notes_of(facts)
        parts = {"rows": notes.rows, "neighbors": notes.neighbors}
    packed = facts.get("sample_ids")
    sample_ids = packed and unpack_ids(packed, count=facts["num_examples"])
    return StoredMemory(
        arrays,
        arrays.get(parts["rows"]),
        arrays.get(parts["neighbors"]),
        sample_ids,
        facts,
    )


def notes_of(facts: dict[str, Any]) -> Notes:
    """Returns the notes of the method that a run was trained by.

    They say nothing of a method that is not ours: its code is not run for a file. Nor of
    an earlier version's options that it does not have any more.
    """
    method = _method_of(facts)
    return Notes() if method is None else method.notes


def _method_of(facts: dict[str, Any]) -> Method | None:
    config = settings.by_new_names(facts["config"])
    if config["method"]["name"] not in METHODS:
        return None
    problem = Problem(
        encoder=settings.call(make_encoder, "encoder", config),
        num_examples=facts["num_examples"],
        batch_size=facts["batch_size"],
        steps_per_epoch=noted_steps_per_epoch(facts),
        axis_name=None,
        categories=facts.get("categories", {}),
    )
    try:
        return make_method(config, problem)
    except UserError:
        return None


def _step_folders(path: Path) -> list[Path]:
    """Newest first, at least one."""
    if (path / "state").is_dir():
        return [path]
    check_no_pickle(path)
    steps = steps_in(path)
    if not steps:
        what = "holds no checkpoint" if path.is_dir() else "is no folder"
        raise UserError(
            f"{path} {what}: name a run's workdir, the folder of one step in its "
            f"{FOLDER}, or a file of weights ({' or '.join(SUFFIXES)})"
        )
    return [path / FOLDER / str(step) for step in steps]


def _read_parts(
    folder: Path, parts: tuple[str, ...], arrays: Mapping[str, Any]
) -> dict[str, Any]:
    """Raises ValueError for what has changed since it was written."""
    noted = {path_of(name): fact for name, fact in arrays.items()}
    wanted = {path: fact for path, fact in noted.items() if path[0] in parts}
    kinds = {path: np.dtype(fact["dtype"]) for path, fact in wanted.items()}
    if any(kind.hasobject for kind in kinds.values()):
        raise ValueError("it has Python objects among its arrays")
    sizes = [kinds[path].itemsize * math.prod(x["shape"]) for path, x in wanted.items()]
    if sum(sizes) > psutil.virtual_memory().total:  # which else would grow until killed
        raise MemoryError
    if not wanted:  # a method without memory
        return {}
    target = {path: np.empty(x["shape"], kinds[path]) for path, x in wanted.items()}
    state = read_item(
        ocp.PyTreeCheckpointHandler(),
        folder,
        item=unflatten_dict(target),
        partial_restore=True,
    )
    # Orbax returns a part that is not there as what happened to lie in memory.
    for path, x in flatten_dict(state).items():
        if checksum(x) != wanted[path]["crc32"]:
            raise ValueError(f"{'.'.join(path)} has changed since it was written")
    return state
