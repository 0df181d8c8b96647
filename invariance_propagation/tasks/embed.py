"""New pictures by a trained encoder: their features, and what they are most like."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from invariance_propagation import devices
from invariance_propagation.core.bank import normalize as unit_length
from invariance_propagation.data.load.pictures import CENTRAL, Pictures
from invariance_propagation.data.passes import Crop, read_crops
from invariance_propagation.data.sources.folder import Files
from invariance_propagation.data.sources.listing import list_pictures
from invariance_propagation.data.views import augment
from invariance_propagation.errors import TrainingError, UserError, printable
from invariance_propagation.evaluation.bench import View, view_of
from invariance_propagation.evaluation.features import Embed, make_embed
from invariance_propagation.evaluation.kept import VECTORS, Block
from invariance_propagation.evaluation.recipes import SMALL_BELOW
from invariance_propagation.files.atomic import drafts_of
from invariance_propagation.files.paths import check_file, local, not_writable
from invariance_propagation.models import Headless
from invariance_propagation.store.provenance import origin
from invariance_propagation.store.reading import workdir_of
from invariance_propagation.store.restore import (
    backbone_of,
    digest_of,
    float32,
    restore_backbone,
    restore_encoder,
)
from invariance_propagation.store.weights import input_of, is_weights
from invariance_propagation.tasks.compare import find_neighbors
from invariance_propagation.tasks.gallery import Gallery, pictures_of, training_images
from invariance_propagation.version import __version__

BATCH_SIZE = 256
# Images whose features are compared and written at once: 67 MB of ResNet-50's.
BLOCK = 8192
NAME = "embedded.npz"
KEPT = "features"  # folder of a workdir


class Network(NamedTuple):
    """What embeds.

    Attributes:
      module: images -> `Outputs`.
      params, batch_stats: its weights.
      channels: of its images.
      has_head: whether it makes embeddings.
      facts: what its run has noted of itself, {} where there is no run.
      digest: of the backbone's weights.
    """

    module: nn.Module
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    channels: int
    has_head: bool
    facts: dict[str, Any]
    digest: str

    @property
    def config(self) -> dict[str, Any]:
        """The run's, {} where there is no run."""
        return self.facts.get("config", {})

    @property
    def stretch_depth(self) -> bool:
        """Whether the run stretches pictures of unknown depth."""
        return self.config.get("data", {}).get("stretch_depth", False)


def embed_folder(
    *,
    checkpoint: str,
    folder: str,
    output: str,
    num_neighbors: int,
    by: str = "features",
    compare_with: str = "",
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
      TrainingError: a checkpoint that cannot be read, or whose features are not finite.
    """
    _check(checkpoint, folder, num_neighbors, by, compare_with)
    local(checkpoint, key="checkpoint")
    root = local(folder, key="folder")
    path = _output_path(checkpoint, output)
    listing = list_pictures(root, key="folder")
    ids = listing.ids
    devices.one_cpu_device_per_core(BATCH_SIZE)
    network = _restore(checkpoint)
    given = network.config.get("augment") or input_of(checkpoint)
    view = view_of(checkpoint, network.channels, view, given)
    crop = Crop(view.size, _share(share, view, network.facts), network.channels)
    gallery = None
    if num_neighbors > 0 and (compare_with or network.facts):
        gallery = _gallery(checkpoint, network, compare_with, view, crop)
        _check_comparison(gallery, num_neighbors, by, network, checkpoint)
    runner = devices.make_runner("pmap", num_devices)
    # As near to it as the devices can share.
    batch_size = max(1, BATCH_SIZE // runner.num_devices) * runner.num_devices
    plain_view = partial(augment.normalize, **view._asdict())
    embed = make_embed(runner, network.module, plain_view, batch_size=batch_size)
    blocks = partial(_blocks, network, embed, crop, batch_size)

    print(f"embedding {len(ids):,} pictures of {printable(folder)}")
    pictures = Pictures(
        ids,
        Files(root, ids),
        size=view.size,
        where=folder,
        stretch_depth=network.stretch_depth,
    )
    failed: list[str] = []
    arrays = _join(blocks(pictures, failed), ids, failed)
    about = {
        "pictures": folder,
        "view": view._asdict() | {"share": crop.share},
        "checkpoint": {"path": checkpoint, "backbone": network.digest},
        "made": origin(),
    }
    if gallery is not None:
        options = {"by": by, "num_neighbors": num_neighbors}
        passed = partial(blocks, gallery.images)
        found, note = find_neighbors(gallery, arrays, passed, **options)
        arrays, about["compared_with"] = arrays | found, note
    _write(path, arrays, about)
    found = f"features of {len(arrays['ids']):,} pictures", listing.about_links()
    print(f"{printable(str(path))}: {', '.join(filter(None, found))}")
    if listing.passed:
        print(f"passed over: {listing.passed_over()}")
    for reason in failed:
        print(f"left out: {reason}")
    return path


def _check(
    checkpoint: str, folder: str, num_neighbors: int, by: str, compare_with: str
) -> None:
    if not checkpoint:
        raise UserError("--config.checkpoint is missing: a run's workdir, or weights")
    if not folder:
        raise UserError("--config.folder is missing: the folder with the pictures")
    if num_neighbors < 0:
        raise UserError(f"num_neighbors={num_neighbors}: set it to 0 or above")
    if by not in VECTORS:
        raise UserError(f"by={by!r}: choose one of {', '.join(VECTORS)}")
    if compare_with and num_neighbors == 0:
        raise UserError(
            f"num_neighbors=0 compares with nothing: set it above 0, or leave "
            f"compare_with={compare_with} out"
        )


def _restore(checkpoint: str) -> Network:
    if is_weights(checkpoint):
        backbone = restore_backbone(checkpoint)
        own = {"backbone": backbone.params}, {"backbone": backbone.batch_stats}
        module, has_head, facts = Headless(backbone.module), False, {}
    else:
        restored = restore_encoder(checkpoint)
        backbone = backbone_of(restored)
        own = restored.params, restored.batch_stats
        module, facts = float32(restored.encoder), restored.facts
        has_head = restored.has_head
    digest = backbone.digest()
    return Network(module, *own, backbone.channels, has_head, facts, digest)


def _gallery(
    checkpoint: str, network: Network, compare_with: str, view: View, crop: Crop
) -> Gallery:
    facts = {
        "version": __version__,
        "step": network.facts.get("step"),
        "weights": digest_of(network.params, network.batch_stats),
        "view": view._asdict() | {"share": crop.share},
    }
    keep_in = workdir_of(checkpoint) / KEPT
    if is_weights(checkpoint):
        keep_in = Path(f"{checkpoint}.{KEPT}").absolute()
    if compare_with:
        return pictures_of(
            compare_with, crop, facts, keep_in, stretch_depth=network.stretch_depth
        )
    return training_images(network.facts, crop, facts, keep_in)


def _check_comparison(
    gallery: Gallery, num_neighbors: int, by: str, network: Network, checkpoint: str
) -> None:
    if num_neighbors > gallery.count:
        raise UserError(
            f"num_neighbors={num_neighbors}, but there are {gallery.count} "
            f"{gallery.title}: set it to at most {gallery.count}"
        )
    if by == "embeddings" and not network.has_head:
        raise UserError(
            f"by='embeddings': {checkpoint} is a backbone without a head, which makes "
            "no embeddings: set --config.by=features"
        )


def _blocks(
    network: Network,
    embed: Embed,
    crop: Crop,
    batch_size: int,
    images: Pictures | np.ndarray,
    failed: list[str],
) -> Iterator[Block]:
    """Embeds images; puts a line into `failed` for each that cannot be used."""
    parts: list[Block] = []
    for batch in read_crops(images, crop, batch_size=batch_size):
        failed += batch.failed
        if not len(batch.rows):
            continue
        outputs = embed(network.params, network.batch_stats, batch.images)
        if not np.isfinite(outputs.features).all():
            raise TrainingError(
                "the network makes features that are not finite: choose a checkpoint "
                "from before its training diverged"
            )
        embeddings = np.asarray(unit_length(outputs.embedding))
        head = embeddings if network.has_head else None
        parts.append(Block(batch.rows, outputs.features, head))
        # Whole blocks, wherever the batches of these devices end.
        while sum(len(part.rows) for part in parts) >= BLOCK:
            block = _concatenate(parts)
            parts = [Block(*(x if x is None else x[BLOCK:] for x in block))]
            yield Block(*(x if x is None else x[:BLOCK] for x in block))
    if sum(len(part.rows) for part in parts):
        yield _concatenate(parts)


def _concatenate(parts: Iterable[Block]) -> Block:
    fields = zip(*parts, strict=True)
    return Block(*(x[0] if x[0] is None else np.concatenate(x) for x in fields))


def _join(
    blocks: Iterable[Block], ids: list[str], failed: list[str]
) -> dict[str, np.ndarray]:
    """The arrays of the output that need no comparison."""
    parts = list(blocks)
    if not parts:
        raise UserError(f"none of {len(failed)} pictures can be used: {failed[0]}")
    block = _concatenate(parts)
    arrays = {"ids": np.array([ids[i] for i in block.rows]), "features": block.features}
    if block.embeddings is not None:
        arrays["embeddings"] = block.embeddings
    return arrays


def _share(share: float | None, view: View, facts: Mapping[str, Any]) -> float:
    """The part of the shorter side that is looked at: that of the run, if it is noted."""
    if share is None and facts.get("share") is not None:
        return facts["share"]
    if share is None:
        name = facts.get("config", {}).get("data", {}).get("name", "")
        streamed = name.startswith(("image_folder", "imagenet"))
        return CENTRAL if streamed or view.size >= SMALL_BELOW else 1.0
    if not 0 < share <= 1:
        raise UserError(f"share={share}: set it above 0 and up to 1")
    return share


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
        with drafts_of(beside, path) as (note, draft):
            with draft.open("wb") as file:
                np.savez(file, **arrays)
            note.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise not_writable(path, error, key="--config.output") from error
