"""The contract between a method and the rest of the package.

A method is a tuple of pure functions with their options bound, in the manner of
`optax.GradientTransformation`. Its state consists of arrays. The trainer, the monitor,
the plan, checkpoints and the report get everything they need from this tuple and never
ask for the method's name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Memory = Any  # a pytree of arrays; () for a method without memory
Outputs = Any  # whatever the method's `forward` returns
Row = Mapping[str, Any]  # a row of metrics.jsonl


class Problem(NamedTuple):
    """Describes the run that a method is made for.

    Attributes:
      encoder: flax module built from the config's section `encoder`. It maps float32
        [b, H, W, C] images to Outputs(features, embedding). Evaluation and export use
        its child `backbone`.
      num_examples: N.
      batch_size: B, over all devices.
      steps_per_epoch: N // B, with the N that the run began with.
      axis_name: the device axis; None if one device holds everything.
      categories: for each column of the data set, the number of its values.
    """

    encoder: Any
    num_examples: int
    batch_size: int
    steps_per_epoch: int
    axis_name: str | None
    categories: Mapping[str, int] = {}


class Batch(NamedTuple):
    """Holds one device's share of a step.

    Attributes:
      indices: int32 [b], positions in the training set.
      views: for each group, float32 [v, b, size, size, C]: v augmented views per image.
      columns: for each name in `Requires.columns`, int32 [b]: a fact about each image.
      keys: typed keys [b], each a function of (seed, epoch, image), for random draws
        per image.
      extra: whatever `prepare` hands on, such as the weight of a mixture.
    """

    indices: jax.Array
    views: dict[str, jax.Array]
    columns: dict[str, jax.Array]
    keys: jax.Array
    extra: Any = ()


class Moment(NamedTuple):
    """Says when a step takes place; the same on all devices.

    Attributes:
      step: int32 [], the number of steps before this one.
      epoch: int32 [], from 0.
      key: typed key [], a function of (seed, step).
    """

    step: jax.Array
    epoch: jax.Array
    key: jax.Array


class Aux(NamedTuple):
    """Holds what `loss` returns besides the loss.

    Attributes:
      metrics: scalars to log, by name; the trainer averages them over devices. With a
        metric named 'similarity' (see `mean_similarity`) the run notices a collapse.
      found: anything that `update` needs later in the step.
    """

    metrics: dict[str, jax.Array]
    found: Any = ()


class Requires(NamedTuple):
    """Lists what a method needs from a run; checked when the run is built.

    Attributes:
      views: for each group, the number of views per image; 0 for a group that other
        options of the method would use, so that the config may name it. The config's
        section `augment` says how views look, its section `views` how a group differs.
      columns: names of the data set's columns that the method reads.
      fewest_examples: the smallest number of training images.
    """

    views: Mapping[str, int] = {"view": 1}
    columns: tuple[str, ...] = ()
    fewest_examples: int = 1


class Panel(NamedTuple):
    """Describes a plot of metrics.jsonl in the report.

    Attributes:
      title: heading of the plot.
      unit: label of the vertical axis.
      series: for each key of a row to plot, its name in the legend.
      meaning: a sentence on how to read the plot.
      scale: factor for all values, 100 for percent.
      from_zero: whether the vertical axis starts at 0.
    """

    title: str
    unit: str
    series: Mapping[str, str]
    meaning: str
    scale: float = 1.0
    from_zero: bool = False


class Strip(NamedTuple):
    """Holds a titled row of training images to show beside an anchor.

    Attributes:
      title: how these images relate to the anchor.
      indices: int [n], the images.
      marked: the indices to mark as 'chosen'.
      kind: '' or 'negative', how the other images are marked.
    """

    title: str
    indices: np.ndarray
    marked: np.ndarray = np.empty(0, int)
    kind: str = ""


class Gallery(NamedTuple):
    """Describes how the report shows the images that a method relates to an anchor.

    Attributes:
      title: heading of the report's section.
      legend: how to read the section.
      marks: for each kind of mark ('chosen', 'negative'), its meaning.
      strips: (memory, anchor, similarities) -> strips, and a sentence below them.
        `similarities`, float [N], are the cosines of the anchor's row of the memory
        (see `Notes.rows`) with all rows; None for a method without rows.
      anchors: (memory) -> int [n], the images to choose anchors from, evenly spread in
        this order; None for all images.
    """

    title: str
    legend: str
    marks: Mapping[str, str]
    strips: Callable[[Memory, int, np.ndarray | None], tuple[list[Strip], str]]
    anchors: Callable[[Memory], np.ndarray] | None = None


def _none(*args: Any) -> None:
    del args


def _no_lines(*args: Any) -> list[str]:
    del args
    return []


def _no_facts(*args: Any) -> dict[str, Any]:
    del args
    return {}


class Notes(NamedTuple):
    """Holds what a method tells monitor, plan, report, export and embed.

    The training step never reads the notes.

    Attributes:
      about: one phrase about the options, printed when a run starts.
      buffers: (batch_size, num_devices, platform) -> bytes by name of the largest arrays
        that `loss` holds on each device; for the memory plan.
      begin_bytes: bytes that `begin` holds on one device; for the memory plan.
      starts: the epoch in which a part of the loss is switched on; None if there is no
        such part, or if the method itself decides when.
      warnings: (number of epochs) -> sentences about what a run of that length misses.
      brief: (row) -> short phrases for the progress bar.
      notices: (row, row before) -> sentences about what has changed between the two.
      measure: (memory, labels [N], indices [n]) -> scores of these images, for rows and
        the summary; None if there is nothing to measure. It may read only the replicated
        parts of the memory. A diagnostic: labels never reach the loss.
      remarks: (memory) -> sentences at the end of a run about what it did not do; reads
        what `measure` may.
      table: (summary) -> lines for the table that a run prints at its end.
      outcome: (rows, summary, options of the method) -> text by name, for the report.
      begins: (rows) -> the epoch to mark in plots, or None.
      rows: path, with dots, of the float32 [N, d] array in the memory that is comparable
        with embeddings by cosine; '' if there is none. The kNN score against these rows
        is logged as `knn_` and this path.
      neighbors: path, with dots, of the int32 [N, k] array of each image's nearest
        neighbours; '' if there is none.
      panels: the method's plots in the report.
      gallery: the method's pictures in the report; None if there are none.
    """

    about: str = ""
    buffers: Callable[[int, int, str], dict[str, int]] = _no_facts
    begin_bytes: int = 0
    starts: int | None = None
    warnings: Callable[[int], list[str]] = _no_lines
    brief: Callable[[Row], list[str]] = _no_lines
    notices: Callable[[Row, Row], list[str]] = _no_lines
    measure: Callable[[Memory, np.ndarray, np.ndarray], dict[str, Any]] | None = None
    remarks: Callable[[Memory], list[str]] = _no_lines
    table: Callable[[Row], list[str]] = _no_lines
    outcome: Callable[[Any, Row, Mapping[str, Any]], dict[str, str]] = _no_facts
    begins: Callable[[Any], int | None] = _none
    rows: str = ""
    neighbors: str = ""
    panels: tuple[Panel, ...] = ()
    gallery: Gallery | None = None


def part_of(memory: Memory, name: str) -> Any:
    """Returns the part of a memory at a path of names with dots between them."""
    for key in name.split("."):
        memory = memory[key] if isinstance(memory, Mapping) else getattr(memory, key)
    return memory


def first_view(encoder: Any, batch: Batch, *, train: bool) -> Outputs:
    """Encodes the first view of the group 'view': all that a one-view method needs."""
    return encoder(batch.views["view"][0], train=train)


class Method(NamedTuple):
    """Holds the functions of a self-supervised method, their options bound.

    Attributes:
      encoder: flax module. Called with images, it returns Outputs(features, embedding),
        which evaluation uses. It may have further heads that only `forward` calls.
      loss: (outputs, batch, memory, moment) -> (float32 [b], Aux).
      forward: (encoder, batch, train=) -> outputs. Called once per step, inside
        `encoder.apply`, so the running statistics of BatchNorm follow every call of the
        encoder in it.
      init_memory: (key, variables of the encoder) -> memory. Traced by JAX, so that
        sharded arrays are created in shards.
      memory_spec: tree of `REPLICATED` and `SHARDED` for the memory, or a prefix of it.
      begin: (memory, embed) -> memory. Called on the host, once, before step 0, with
        NumPy arrays in global shapes; embed() returns the Outputs of all training
        images. None: the memory stays as `init_memory` made it.
      update: (memory, outputs, batch, aux, variables, moment) -> memory. Called in every
        step, with the outputs from before the parameter update and the variables from
        after it.
      refresh: (memory, moment) -> memory. Called after every `refresh_every` steps.
      refresh_every: number of steps; 0 for never.
      match: (memory, rows, embeddings) -> memory for a changed set of training images.
        All arrays are NumPy arrays in global shapes. `rows`, int32 [N], gives each
        image's row in the earlier set, -1 for a new image; `embeddings`, float32 [m, d],
        belong to the new images, in their order. None: a run of a method with memory
        cannot continue with other images.
      prepare: (batch, moment) -> batch, for example to mix images.
      param_groups: (params) -> a tree of labels, or a prefix of it. The config's
        `optimizer.groups` has options for each label. None: one group for everything.
      requires: what the method needs from a run.
      notes: what the method tells the rest of the package.
    """

    encoder: Any
    loss: Callable[[Outputs, Batch, Memory, Moment], tuple[jax.Array, Aux]]
    forward: Callable[..., Outputs] = first_view
    init_memory: Callable[[jax.Array, Any], Memory] = lambda key, variables: ()
    memory_spec: Any = ()
    begin: Callable[[Memory, Callable[[], Any]], Memory] | None = None
    update: Callable[..., Memory] = lambda memory, *args: memory
    refresh: Callable[[Memory, Moment], Memory] = lambda memory, moment: memory
    refresh_every: int = 0
    match: Callable[[Memory, np.ndarray, np.ndarray], Memory] | None = None
    prepare: Callable[[Batch, Moment], Batch] = lambda batch, moment: batch
    param_groups: Callable[[Any], Any] | None = None
    requires: Requires = Requires()
    notes: Notes = Notes()
