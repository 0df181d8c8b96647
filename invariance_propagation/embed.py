"""New pictures by a trained encoder: their features, and what they are most like."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from invariance_propagation import devices
from invariance_propagation.bank import normalize as unit_length
from invariance_propagation.data import augment
from invariance_propagation.data.folder import Files, list_pictures
from invariance_propagation.data.pictures import CENTRAL, Pictures
from invariance_propagation.data.readable import Batch, readable
from invariance_propagation.drafts import draft_of
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.features import make_embed
from invariance_propagation.evaluation.recipes import SMALL_BELOW
from invariance_propagation.evaluation.retrieval import most_similar
from invariance_propagation.origin import origin
from invariance_propagation.paths import check_file, local, not_writable
from invariance_propagation.protocols.bench import Headless, View, view_of
from invariance_propagation.restore import (
    NoGraph,
    StoredMemory,
    backbone_of,
    float32,
    restore_backbone,
    restore_both,
    restore_encoder,
    workdir_of,
)
from invariance_propagation.weights import input_of, is_weights

BATCH_SIZE = 256
NAME = "embedded.npz"


class Network(NamedTuple):
    """What embeds.

    Attributes:
      module: images -> `Outputs`.
      params, batch_stats: of it.
      channels: of its images.
      config: of the run, {} where there is none.
      memory: what the run remembers, None where there is none.
      digest: of the backbone's weights.
    """

    module: nn.Module
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    channels: int
    config: dict[str, Any]
    memory: StoredMemory | None
    digest: str


def embed_folder(
    *,
    checkpoint: str,
    folder: str,
    output: str,
    num_neighbors: int,
    view: Mapping[str, Any],
    share: float | None,
    num_devices: int | None,
) -> Path:
    """Writes the features of all pictures of a folder into one file.

    Arguments are the keys of configs/embed.py, which says what they mean and what is
    written. Pictures that cannot be read are left out, and named.

    Returns:
      The file.

    Raises:
      UserError: bad input; nothing has been written.
      TrainingError: a checkpoint that cannot be read.
    """
    if not checkpoint:
        raise UserError("--config.checkpoint is missing: a run's workdir, or weights")
    if not folder:
        raise UserError("--config.folder is missing: the folder with the pictures")
    if num_neighbors < 0:
        raise UserError(f"num_neighbors={num_neighbors}: set it to 0 or above")
    local(checkpoint, key="checkpoint")
    root = local(folder, key="folder")
    path = _output_path(checkpoint, output)
    ids = list_pictures(root, key="folder")
    devices.one_cpu_device_per_core(BATCH_SIZE)
    network = _restore(checkpoint, with_memory=num_neighbors > 0)
    given = network.config.get("augment") or input_of(checkpoint)
    view = view_of(checkpoint, network.channels, view, given)
    share = _share(share, view, network.config)
    if network.memory is not None and num_neighbors > len(network.memory.bank):
        raise UserError(
            f"num_neighbors={num_neighbors}, but there are {len(network.memory.bank)} "
            "training images: set it lower"
        )
    runner = devices.make_runner("pmap", num_devices)
    # As near to it as the devices can share.
    batch_size = max(1, BATCH_SIZE // runner.num_devices) * runner.num_devices
    plain_view = partial(augment.normalize, **view._asdict())
    embed = make_embed(runner, network.module, plain_view, batch_size=batch_size)
    batches = readable(
        Pictures(ids, Files(root, ids), size=view.size, where=folder),
        batch_size=batch_size,
        share=share,
        channels=network.channels,
    )
    embed = partial(embed, network.params, network.batch_stats)
    arrays, failed = _embed_all(batches, embed, network, num_neighbors)
    about = {
        "pictures": folder,
        "view": view._asdict() | {"share": share},
        "checkpoint": {"path": checkpoint, "backbone": network.digest},
        "made": origin(),
    }
    _write(path, arrays, about)
    print(f"{path}: features of {len(arrays['ids']):,} pictures")
    for reason in failed:
        print(f"left out: {reason}")
    return path


def _restore(checkpoint: str, *, with_memory: bool) -> Network:
    if is_weights(checkpoint):
        backbone = restore_backbone(checkpoint)
        own = {"backbone": backbone.params}, {"backbone": backbone.batch_stats}
        module, config, memory = Headless(backbone.module), {}, None
    else:
        if with_memory:
            try:
                restored, memory = restore_both(checkpoint)
            except NoGraph as error:
                raise UserError(
                    f"{error}: set --config.num_neighbors=0 to name no training images"
                ) from error
        else:
            restored, memory = restore_encoder(checkpoint), None
        backbone = backbone_of(restored)
        own = restored.params, restored.batch_stats
        module, config = float32(restored.encoder), restored.config
    digest = backbone.digest()
    return Network(module, *own, backbone.channels, config, memory, digest)


def _share(share: float | None, view: View, config: Mapping[str, Any]) -> float:
    if share is None:
        name = config.get("data", {}).get("name", "")
        streamed = name.startswith(("image_folder", "imagenet"))
        return CENTRAL if streamed or view.size >= SMALL_BELOW else 1.0
    if not 0 < share <= 1:
        raise UserError(f"share={share}: set it above 0 and up to 1")
    return share


def _embed_all(
    batches: Iterable[Batch], embed: Callable, network: Network, num_neighbors: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the file, and why pictures are not in it."""
    memory, parts, failed = network.memory, [], []
    bank = None if memory is None else jnp.asarray(memory.bank)
    for batch in batches:
        failed += batch.failed
        if not batch.ids:
            continue
        features, embeddings = embed(batch.images)
        part = {"ids": np.array(batch.ids), "features": features}
        if network.config:
            part["embeddings"] = np.asarray(unit_length(embeddings))
        if bank is not None:
            found = most_similar(bank, embeddings, num_neighbors=num_neighbors)
            part["similarities"], part["neighbors"] = map(np.asarray, found)
        parts.append(part)
    if not parts:
        raise UserError(f"none of {len(failed)} pictures can be used: {failed[0]}")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if memory is not None and memory.sample_ids is not None:
        arrays["neighbor_ids"] = np.array(memory.sample_ids)[arrays["neighbors"]]
    return arrays, failed


def _output_path(checkpoint: str, output: str) -> Path:
    if not output and is_weights(checkpoint):
        raise UserError(
            f"--config.output is missing: {checkpoint} is of no run, so name a file"
        )
    path = local(output, key="output") if output else workdir_of(checkpoint) / NAME
    if path.suffix != ".npz" or path.is_dir():
        raise UserError(f"output={path}: name a file, with .npz at its end")
    if output or path.parent.is_dir():  # else there is no run, as `_restore` says
        check_file(path, key="--config.output")
    return path


def _write(path: Path, arrays: Mapping[str, np.ndarray], about: dict) -> None:
    beside = path.with_name(path.name + ".json")
    try:
        with draft_of(path) as draft, draft_of(beside) as note:
            with draft.open("wb") as file:
                np.savez(file, **arrays)
            note.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise not_writable(path, error, key="--config.output") from error
