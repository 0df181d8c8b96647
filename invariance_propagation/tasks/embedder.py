"""A trained network, ready to embed pictures block by block."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from invariance_propagation import devices
from invariance_propagation.core.bank import normalize as unit_length
from invariance_propagation.data.load.pictures import CENTRAL, Pictures
from invariance_propagation.data.passes import Crop, read_crops
from invariance_propagation.data.views import augment
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation.bench import View, view_of
from invariance_propagation.evaluation.features import Embed, make_embed
from invariance_propagation.evaluation.kept import Block
from invariance_propagation.evaluation.recipes import SMALL_BELOW
from invariance_propagation.models import Headless
from invariance_propagation.store.reading import Source
from invariance_propagation.store.restore import float32, restore

BATCH_SIZE = 256
# Images whose features are compared and written at once: 67 MB of ResNet-50's.
BLOCK = 8192


class Network(NamedTuple):
    """Holds a trained network.

    Attributes:
      module: flax module, images -> `Outputs`.
      params, batch_stats: its weights.
      channels: number of channels of its images.
      has_head: whether it makes embeddings.
      input: size, mean and std of the images that it was trained with; None if they are
        not known.
      facts: facts of its run, as the checkpoint has them; {} for a file of weights.
      digest: digest of the backbone's weights.
    """

    module: nn.Module
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    channels: int
    has_head: bool
    input: Mapping[str, Any] | None
    facts: dict[str, Any]
    digest: str

    @property
    def config(self) -> dict[str, Any]:
        """Returns the run's config, {} for a file of weights."""
        return self.facts.get("config", {})

    @property
    def stretch_depth(self) -> bool:
        """Returns whether the run stretches pictures of unknown depth."""
        return self.config.get("data", {}).get("stretch_depth", False)


class Embedder(NamedTuple):
    """Holds a network and how pictures are cropped for it.

    Attributes:
      network: the network.
      view: size and normalisation of an image.
      crop: the part of a picture that is cut out.
      num_devices: D.
      batch_size: images that are embedded at once.
      embed: maps weights and uint8 images to NumPy `Outputs`.
    """

    network: Network
    view: View
    crop: Crop
    num_devices: int
    batch_size: int
    embed: Embed

    def blocks(
        self, images: Pictures | np.ndarray, failed: list[str]
    ) -> Iterator[Block]:
        """Embeds images in blocks of `BLOCK`, with a progress bar on a terminal.

        Args:
          images: encoded pictures, or uint8 [n, H, W, C].
          failed: receives a line for each picture that cannot be used.

        Raises:
          TrainingError: the network makes features that are not finite.
        """
        pending: list[Block] = []
        for batch in read_crops(images, self.crop, batch_size=self.batch_size):
            failed += batch.failed
            if not len(batch.rows):
                continue
            pending.append(self._embed(batch.rows, batch.images))
            # All blocks but the last are full, whatever the batches of these devices.
            while sum(len(block.rows) for block in pending) >= BLOCK:
                whole = concatenate(pending)
                pending = [Block(*(x if x is None else x[BLOCK:] for x in whole))]
                yield Block(*(x if x is None else x[:BLOCK] for x in whole))
        if sum(len(block.rows) for block in pending):
            yield concatenate(pending)

    def _embed(self, rows: np.ndarray, images: np.ndarray) -> Block:
        network = self.network
        outputs = self.embed(network.params, network.batch_stats, images)
        if not np.isfinite(outputs.features).all():
            raise TrainingError(
                "the network makes features that are not finite: choose a checkpoint "
                "from before its training diverged"
            )
        head = np.asarray(unit_length(outputs.embedding)) if network.has_head else None
        return Block(rows, outputs.features, head)


def restore_network(source: Source) -> Network:
    """Reads the network of a run's checkpoint, or of a file of weights.

    Raises:
      UserError: there is none at this path.
      TrainingError: it cannot be read.
    """
    backbone, run, trained_with = restore(source)
    if run is None:
        return Network(
            module=Headless(backbone.module),
            params={"backbone": backbone.params},
            batch_stats={"backbone": backbone.batch_stats},
            channels=backbone.channels,
            has_head=False,
            input=trained_with,
            facts={},
            digest=backbone.digest(),
        )
    return Network(
        module=float32(run.encoder),
        params=run.params,
        batch_stats=run.batch_stats,
        channels=backbone.channels,
        has_head=run.has_head,
        input=trained_with,
        facts=run.facts,
        digest=backbone.digest(),
    )


def make_embedder(
    checkpoint: str,
    network: Network,
    *,
    view: Mapping[str, Any],
    share: float | None,
    num_devices: int | None,
) -> Embedder:
    """Prepares a network to embed pictures.

    Args:
      checkpoint: path of the network, for messages.
      network: the network.
      view: size, mean and std; None where the run's apply.
      share: part of the shorter side that is looked at; None for the run's.
      num_devices: devices to use; None for all.

    Raises:
      UserError: a value is missing or out of its range.
    """
    view = view_of(checkpoint, network.channels, view, network.input)
    crop = Crop(view.size, _share(share, view, network.facts), network.channels)
    runner = devices.make_runner("pmap", num_devices)
    # The nearest size that the devices can share equally.
    batch_size = max(1, BATCH_SIZE // runner.num_devices) * runner.num_devices
    plain_view = partial(augment.normalize, **view._asdict())
    embed = make_embed(runner, network.module, plain_view, batch_size=batch_size)
    return Embedder(network, view, crop, runner.num_devices, batch_size, embed)


def concatenate(blocks: Iterable[Block]) -> Block:
    """Joins blocks into one."""
    fields = zip(*blocks, strict=True)
    return Block(*(x[0] if x[0] is None else np.concatenate(x) for x in fields))


def _share(share: float | None, view: View, facts: Mapping[str, Any]) -> float:
    """Returns the part of the shorter side to look at; by default the run's."""
    if share is None and facts.get("share") is not None:
        return facts["share"]
    if share is None:
        name = facts.get("config", {}).get("data", {}).get("name", "")
        streamed = name.startswith(("image_folder", "imagenet"))
        return CENTRAL if streamed or view.size >= SMALL_BELOW else 1.0
    if not 0 < share <= 1:
        raise UserError(f"share={share}: set --config.share above 0 and up to 1")
    return share
