"""CoKe as the trainer sees it: streaming k-means whose labels train the network.

Read `several` first: it has the step with two views. `one_view` differs from it in its
second stage. `clustering` has the equations of the method.
"""

from functools import partial
from typing import Any

from invariance_propagation.methods.base import Batch, Method, Problem, Requires
from invariance_propagation.methods.coke import clustering, memory, one_view, several
from invariance_propagation.methods.coke.memory import Memory, Outputs
from invariance_propagation.methods.coke.network import make_network
from invariance_propagation.methods.coke.notes import make_notes
from invariance_propagation.methods.coke.options import Options
from invariance_propagation.parallel import REPLICATED, SHARDED
from invariance_propagation.settings import keywords_of


def encode_one(encoder: Any, batch: Batch, *, train: bool) -> Outputs:
    """Encodes the only view."""
    return Outputs(encoder.encode(batch.views["view"], train=train))


def encode_two(encoder: Any, batch: Batch, *, train: bool) -> Outputs:
    """Encodes the two large views."""
    both = batch.views["first"][0], batch.views["second"][0]
    return Outputs(encoder.encode(both, train=train))


def encode_all(encoder: Any, batch: Batch, *, train: bool) -> Outputs:
    """Encodes the large views, and the small ones after them."""
    large = encode_two(encoder, batch, train=train)
    return large._replace(small=encoder.encode(batch.views["small"], train=train))


@keywords_of(Options)
def coke(*, problem: Problem, **options: Any) -> Method:
    """Makes the method from its options.

    Args:
      problem: N, the backbone, widths of the heads, and the device axis.
      options: the fields of `Options`, all of them.

    Raises:
      UserError: a value out of its range.

    Source: Qian, Xu, Hu, Li, Jin: "Unsupervised Visual Representation Learning by Online
    Constrained K-Means", CVPR 2022, arXiv 2105.11527.
    """
    checked = Options(**options).checked(problem.num_examples)
    bound = {"options": checked, "problem": problem}
    step = partial(clustering.step, options=checked.duals)
    two = Method(
        encoder=make_network(problem),
        forward=encode_two,
        init_memory=partial(memory.init_memory, **bound),
        memory_spec=Memory(REPLICATED, REPLICATED),
        loss=partial(several.loss_two_views, **bound),
        update=partial(several.update, problem=problem, step=step),
        refresh=several.refresh,
        refresh_every=problem.steps_per_epoch,
        match=memory.match,
        requires=Requires(
            views=checked.groups, fewest_examples=max(checked.num_clusters)
        ),
        notes=make_notes(checked),
    )
    variants = {
        "two": {},
        "multi_crop": {
            "forward": encode_all,
            "loss": partial(several.loss_multi_crop, **bound),
        },
        "one": {
            "forward": encode_one,
            "init_memory": partial(memory.init_memory_one_view, **bound),
            "memory_spec": Memory(REPLICATED, REPLICATED, SHARDED),
            "loss": partial(one_view.loss, **bound),
            "update": partial(one_view.update, **bound),
            "refresh": partial(one_view.refresh, options=checked),
        },
    }
    return two._replace(**variants[checked.views])
