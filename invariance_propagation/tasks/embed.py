"""Embeds new pictures with a trained network and finds the images they are most like."""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from invariance_propagation import devices
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources.folder import Files
from invariance_propagation.data.sources.listing import Listing, list_pictures
from invariance_propagation.errors import UserError, check_choice, plural, printable
from invariance_propagation.evaluation.kept import VECTORS, Block
from invariance_propagation.files.atomic import drafts_of
from invariance_propagation.files.paths import check_file, local, not_writable
from invariance_propagation.phases import phase
from invariance_propagation.store.provenance import origin
from invariance_propagation.store.reading import Source, find_source
from invariance_propagation.store.restore import digest_of
from invariance_propagation.tasks.compare import find_neighbors
from invariance_propagation.tasks.embedder import (
    BATCH_SIZE,
    Embedder,
    Network,
    concatenate,
    make_embedder,
    restore_network,
)
from invariance_propagation.tasks.gallery import Gallery, pictures_of, training_images
from invariance_propagation.version import __version__

NAME = "embedded.npz"
KEPT = "features"  # folder of a workdir


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

    The arguments are the keys of configs/embed.py, which explains them and what is
    written. Pictures that cannot be read are left out and listed.

    Returns:
      The path of the file.

    Raises:
      UserError: bad input; nothing has been written.
      TrainingError: the checkpoint cannot be read, or its features are not finite.
    """
    _check(checkpoint, folder, num_neighbors, by, compare_with)
    source, root = find_source(checkpoint), local(folder, key="folder")
    path = _output_path(source, output)
    with phase(f"listing the pictures of {printable(folder)}"):
        listing = list_pictures(root, key="folder")
    devices.one_cpu_device_per_core(BATCH_SIZE)
    with phase(f"reading {printable(checkpoint)}"):
        network = restore_network(source)
    embedder = make_embedder(
        checkpoint, network, view=view, share=share, num_devices=num_devices
    )
    gallery = None
    if num_neighbors > 0 and (compare_with or network.facts):
        with phase("looking for the images to compare with"):
            gallery = _gallery(source, embedder, compare_with)
        _check_comparison(gallery, num_neighbors, by, network, checkpoint)
    elif num_neighbors > 0:
        print(
            "no neighbours: a file of weights does not say what it was trained on; set "
            "--config.compare_with to a folder of pictures"
        )
    arrays, failed = _embed(embedder, root, listing, folder)
    about = {
        "pictures": folder,
        "view": embedder.view._asdict() | {"share": embedder.crop.share},
        "checkpoint": {"path": checkpoint, "backbone": network.digest},
        "made": origin(),
    }
    if gallery is not None:
        neighbors, about["compared_with"] = find_neighbors(
            gallery,
            arrays,
            partial(embedder.blocks, gallery.images),
            by=by,
            num_neighbors=num_neighbors,
        )
        arrays |= neighbors
    _write(path, arrays, about)
    _tell(path, len(arrays["ids"]), listing, failed)
    return path


def _check(
    checkpoint: str, folder: str, num_neighbors: int, by: str, compare_with: str
) -> None:
    if not checkpoint:
        raise UserError(
            "--config.checkpoint is missing: name a run's workdir, or a file of weights"
        )
    if not folder:
        raise UserError("--config.folder is missing: name the folder with the pictures")
    if num_neighbors < 0:
        raise UserError(
            f"num_neighbors={num_neighbors}: set --config.num_neighbors to 0 or above"
        )
    check_choice("by", by, VECTORS)
    if compare_with and num_neighbors == 0:
        raise UserError(
            "num_neighbors=0 compares with nothing: set --config.num_neighbors above 0, "
            f"or leave compare_with={compare_with} out"
        )


def _gallery(source: Source, embedder: Embedder, compare_with: str) -> Gallery:
    """Returns the images to compare with, and what their features depend on."""
    network, crop = embedder.network, embedder.crop
    facts = {
        "version": __version__,
        "step": network.facts.get("step"),
        "weights": digest_of(network.params, network.batch_stats),
        "view": embedder.view._asdict() | {"share": crop.share},
    }
    if source.workdir is None:
        keep_in = source.path.with_name(f"{source.path.name}.{KEPT}")
    else:
        keep_in = source.workdir / KEPT
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


def _embed(
    embedder: Embedder, root: Path, listing: Listing, folder: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Embeds the pictures of the folder.

    Returns:
      The arrays that need no comparison, and a line for each picture left out.
    """
    network, ids = embedder.network, listing.ids
    if network.channels == 1:
        print(
            "this network was trained on grey images: pictures in colour are converted "
            "to grey"
        )
    pictures = Pictures(
        ids,
        Files(root, ids),
        size=embedder.view.size,
        where=folder,
        stretch_depth=network.stretch_depth,
    )
    failed: list[str] = []
    with phase(f"embedding {plural(len(ids), 'picture')} of {printable(folder)}"):
        return _join(embedder.blocks(pictures, failed), ids, failed), failed


def _join(
    blocks: Iterable[Block], ids: list[str], failed: list[str]
) -> dict[str, np.ndarray]:
    embedded = list(blocks)
    if not embedded:
        raise UserError(
            f"none of {plural(len(failed), 'picture')} can be used: {failed[0]}"
        )
    block = concatenate(embedded)
    arrays = {"ids": np.array([ids[i] for i in block.rows]), "features": block.features}
    if block.embeddings is not None:
        arrays["embeddings"] = block.embeddings
    return arrays


def _output_path(source: Source, output: str) -> Path:
    if output:
        path = local(output, key="output")
    elif source.workdir is not None:
        path = source.workdir / NAME
    else:
        raise UserError(
            f"--config.output is missing: {source.name} belongs to no run, so name the "
            "file to write"
        )
    if path.suffix != ".npz" or path.is_dir():
        raise UserError(
            f"output={path}: set --config.output to a file with .npz at its end"
        )
    if output or path.parent.is_dir():  # else there is no run, as restoring it will say
        check_file(path, key="--config.output")
    return path


def _write(path: Path, arrays: Mapping[str, np.ndarray], about: dict) -> None:
    beside = path.with_name(path.name + ".json")
    try:
        with drafts_of(beside, path) as (note, draft):
            with draft.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            note.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise not_writable(path, error, key="--config.output") from error


def _tell(path: Path, count: int, listing: Listing, failed: list[str]) -> None:
    """Says what has been written, and which files were left out."""
    text = f"features of {plural(count, 'picture')}", listing.about_links()
    print(f"{printable(str(path))}: {', '.join(filter(None, text))}")
    if listing.passed:
        print(f"skipped: {listing.passed_over()}")
    for reason in failed:
        print(f"left out: {reason}")
