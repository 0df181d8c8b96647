"""The contract between the trainer and a method.

A method is a tuple of pure functions with their options bound, in the manner of
`optax.GradientTransformation`. Its state is arrays. The trainer, the monitor, the plan,
checkpoints and the report ask for what they need through this tuple and never for the
method's name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Memory = Any  # a pytree of arrays; () for a method without memory
Outputs = Any  # whatever the method's `forward` returns
Row = Mapping[str, Any]  # of metrics.jsonl


class Problem(NamedTuple):
    """What a method is applied to.

    Attributes:
      encoder: flax module of the config's section `encoder`: images float32
        [b, H, W, C] -> Outputs(features, embedding). Its child `backbone` is what
        evaluation and export use.
      num_examples: N.
      batch_size: B, over all devices.
      steps_per_epoch: N // B of the N that the run began with.
      axis_name: the device axis; None if one device holds everything.
      categories: how many values each column of the data set has.
    """

    encoder: Any
    num_examples: int
    batch_size: int
    steps_per_epoch: int
    axis_name: str | None
    categories: Mapping[str, int] = {}


class Batch(NamedTuple):
    """One device's share of a step.

    Attributes:
      indices: int32 [b], positions in the training set.
      views: by group, float32 [v, b, size, size, C]: v augmented views of each image.
      columns: by name, int32 [b]: facts about each image that the method requires.
      keys: typed keys [b], a function of (seed, epoch, image), for chance per image.
      extra: whatever `prepare` hands on, such as the weight of a mixture.
    """

    indices: jax.Array
    views: dict[str, jax.Array]
    columns: dict[str, jax.Array]
    keys: jax.Array
    extra: Any = ()


class Moment(NamedTuple):
    """The time of a step; the same on all devices.

    Attributes:
      step: int32 [], steps done before this one.
      epoch: int32 [], from 0.
      key: typed key [], a function of (seed, step).
    """

    step: jax.Array
    epoch: jax.Array
    key: jax.Array


class Aux(NamedTuple):
    """What `loss` hands on beside the loss.

    Attributes:
      metrics: scalars to log, by name; the trainer averages them over devices. One
        named 'similarity', as from `mean_similarity`, lets a run notice a collapse.
      found: anything that `update` wants to see again.
    """

    metrics: dict[str, jax.Array]
    found: Any = ()


class Requires(NamedTuple):
    """What a method needs of a run; checked when the run is built.

    Attributes:
      views: how many views of each group. The config's section `augment` says how they
        look, and its section `views` what is different in a group.
      columns: facts per image, by the names that the data set has for them.
      fewest_examples: training images.
    """

    views: Mapping[str, int] = {"view": 1}
    columns: tuple[str, ...] = ()
    fewest_examples: int = 1


class Panel(NamedTuple):
    """A plot of what the rows of metrics.jsonl hold.

    Attributes:
      title: what is shown.
      unit: of the vertical axis.
      series: keys of rows, and what a legend calls them.
      meaning: a sentence on how to read it.
      scale: what to multiply with, 100 for percent.
      from_zero: whether the vertical axis starts there.
    """

    title: str
    unit: str
    series: Mapping[str, str]
    meaning: str
    scale: float = 1.0
    from_zero: bool = False


class Strip(NamedTuple):
    """Training images beside an anchor, with a title.

    Attributes:
      title: what they are to the anchor.
      indices: int [n].
      marked: those of them to mark as 'chosen'.
      kind: '' or 'negative', how all of them are marked.
    """

    title: str
    indices: np.ndarray
    marked: np.ndarray = np.empty(0, int)
    kind: str = ""


class Gallery(NamedTuple):
    """How a method shows what one image is to others.

    Attributes:
      title: heading of the report's section.
      legend: how to read it.
      marks: what each mark means, by its kind ('chosen', 'negative').
      strips: (memory, anchor) -> strips, and a sentence below them.
    """

    title: str
    legend: str
    marks: Mapping[str, str]
    strips: Callable[[Memory, int], tuple[list[Strip], str]]


def _none(*args: Any) -> None:
    del args


def _no_lines(*args: Any) -> list[str]:
    del args
    return []


def _no_facts(*args: Any) -> dict[str, Any]:
    del args
    return {}


class Notes(NamedTuple):
    """What a method says about itself; the step never reads it.

    Attributes:
      about: one phrase about its options, printed when a run starts.
      buffers: (batch_size, num_devices) -> bytes by name, the largest arrays that
        `loss` holds on each device while it runs; for the memory plan.
      starts: the first epoch of a part of the loss that is off before; None if there is
        none, or it starts by itself.
      warnings: epochs of a run -> what such a run lacks, a sentence each.
      brief: row of training -> phrases about it for the progress bar.
      notices: (row, row before) -> what is new in this row, a sentence each.
      measure: (memory, labels [N], indices [n]) -> scores for rows and the summary, of
        these images; None if nothing is to be measured. Reads what is replicated of the
        memory. A diagnostic only: labels never reach the loss.
      table: summary -> lines for its table.
      outcome: (rows, summary, options of the method) -> text by name, for the report.
      begins: rows -> epoch to mark in plots, None without one.
      rows: the part of the memory, by its name with dots, that holds a float32 [N, d]
        comparable with embeddings by cosine; '' without one. 'bank' makes a score
        `knn_bank`.
      neighbors: likewise, the nearest neighbours of each image, int32 [N, k].
      panels: plots of the report.
      gallery: pictures of the report.
    """

    about: str = ""
    buffers: Callable[[int, int], dict[str, int]] = _no_facts
    starts: int | None = None
    warnings: Callable[[int], list[str]] = _no_lines
    brief: Callable[[Row], list[str]] = _no_lines
    notices: Callable[[Row, Row], list[str]] = _no_lines
    measure: Callable[[Memory, np.ndarray, np.ndarray], dict[str, Any]] | None = None
    table: Callable[[Row], list[str]] = _no_lines
    outcome: Callable[[Any, Row, Mapping[str, Any]], dict[str, str]] = _no_facts
    begins: Callable[[Any], int | None] = _none
    rows: str = ""
    neighbors: str = ""
    panels: tuple[Panel, ...] = ()
    gallery: Gallery | None = None


def part_of(memory: Memory, name: str) -> Any:
    """Returns the part of a memory that a name with dots means."""
    for key in name.split("."):
        memory = memory[key] if isinstance(memory, Mapping) else getattr(memory, key)
    return memory


def first_view(encoder: Any, batch: Batch, *, train: bool) -> Outputs:
    """Encodes the first view of the group 'view'; what a method of one view needs."""
    return encoder(batch.views["view"][0], train=train)


class Method(NamedTuple):
    """A self-supervised method.

    Attributes:
      encoder: flax module; called with images it returns Outputs(features, embedding),
        which evaluation uses. It may have heads that `forward` alone calls.
      loss: (outputs, batch, memory, moment) -> (float32 [b], Aux).
      forward: (encoder, batch, train=) -> outputs; called once per step inside of
        `encoder.apply`, so that BatchNorm follows every call of the encoder in it.
      init_memory: (key, variables of the encoder) -> memory; traced, born sharded.
      memory_spec: the memory's tree of `REPLICATED` and `SHARDED`, or a prefix of it.
      begin: (memory, embed) -> memory; on the host, once, before step 0. Memory is NumPy
        arrays in global shapes; embed() -> Outputs of all training images. None: as made.
      update: (memory, outputs, batch, aux, variables, moment) -> memory; every step, with
        the outputs from before the parameter update, the variables from after it.
      refresh: (memory, moment) -> memory; after every `refresh_every` steps.
      refresh_every: steps; 0 for never.
      match: (memory, rows, embeddings) -> memory for other training images, of which
        there may be more or fewer; all of them NumPy arrays in global shapes. `rows`,
        int32 [N], is the place of each image among the earlier ones, -1 for a new one;
        `embeddings`, float32 [m, d], are of the new ones, in their order. None: a run
        with memory cannot go on with other images.
      prepare: (batch, moment) -> batch, such as for mixing.
      param_groups: params -> a tree of labels, or a prefix of it; the config's
        `optimizer.groups` has options for each label. None: all are one group.
      requires: see `Requires`.
      notes: see `Notes`.
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
