"""Un-Mix: the loss of another method, on mixtures of two images as well.

Equations are numbered here; the paper's numbers could not be read. x_b is an image's
view, x_r the view of its partner, which is the image at its place in the reversed batch.

  (1)  lambda ~ Beta(alpha, alpha), one for the batch
  (2)  global:  m_b = lambda x_b + (1 - lambda) x_r, with the probability of the option
       region:  m_b = x_b, with a box of x_r pasted in. The box's sides are sqrt(1 - lambda)
       of the image's and its centre is uniform. What lies outside of the image is cut
       off, and lambda becomes the share of x_b that is left
  (3)  L = L(x_b, b) + lambda L(m_b, b) + (1 - lambda) L(m_b, r)

L is the inner method's loss of an image's view and what the method knows of an image. The
authors' code has this for MoCo and SwAV. For methods that know an image by its index, such
as by its row in a memory bank, the form is a reconstruction: no released code shows it.

The inner method sees mixtures in (3) alone. Memory, neighbours and clusters follow the
clean views.

Source: Shen, Liu, Liu, Savvides, Darrell, Xing: "Un-Mix: Rethinking Image Mixtures for
Unsupervised Visual Representation Learning", AAAI 2022, arXiv 2003.05438; for the sizes
of the box, utils.py of szq0214/Un-Mix at commit 0911f77.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Memory,
    Method,
    Moment,
    Problem,
)
from invariance_propagation.methods.table import make_from
from invariance_propagation.methods.unmix.mixture import (
    PURPOSE,
    draw_mixture,
    own_share,
)
from invariance_propagation.methods.unmix.notes import notes_around
from invariance_propagation.methods.unmix.options import Options
from invariance_propagation.parallel import reverse_rows


class Extra(NamedTuple):
    """Holds what `prepare` hands on: batches as the inner method takes them.

    Attributes:
      clean: without mixtures.
      mixed: with mixed views, and random keys of its own.
      partners: the clean batch in reverse order, with the random keys for mixtures.
      share: float32 [], lambda of (3).
    """

    clean: Batch
    mixed: Batch
    partners: Batch
    share: jax.Array


class Seen(NamedTuple):
    """Holds the inner method's outputs for clean and mixed views."""

    clean: Any
    mixed: Any


def prepare(
    batch: Batch, moment: Moment, *, inner: Method, options: Options, axis_name: Any
) -> Batch:
    """Adds, for each group of views, a group 'mixed ...' with a mixture of every view."""
    clean = inner.prepare(batch, moment)
    partners = inner.prepare(_reversed(batch, axis_name), moment)
    draw = draw_mixture(moment.key, options)
    mixed, shares = {}, []
    for group, views in clean.views.items():
        own = own_share(draw, views.shape[-3], views.shape[-2])
        mixed[group] = own * views + (1 - own) * partners.views[group]
        shares.append(own.mean())  # groups differ by the rounding of the box alone
    extra = Extra(
        clean=clean,
        mixed=clean._replace(views=mixed, keys=_keys_for_mixtures(clean.keys)),
        partners=partners._replace(keys=_keys_for_mixtures(partners.keys)),
        share=jnp.stack(shares).mean(),
    )
    shown = {f"mixed {group}": views for group, views in mixed.items()}
    return clean._replace(views=clean.views | shown, extra=extra)


def forward(encoder: Any, batch: Batch, *, train: bool, inner: Method) -> Seen:
    """Encodes clean and mixed views, each by a pass of its own, also for BatchNorm."""
    clean, mixed = batch.extra.clean, batch.extra.mixed
    return Seen(
        inner.forward(encoder, clean, train=train),
        inner.forward(encoder, mixed, train=train),
    )


def loss(
    outputs: Seen, batch: Batch, memory: Memory, moment: Moment, *, inner: Method
) -> tuple[jax.Array, Aux]:
    """Computes (3) for each image, float32 [b]; where L reads views, they are clean."""
    clean, mixed, partners, share = batch.extra
    own = mixed._replace(views=clean.views)
    alone, aux = inner.loss(outputs.clean, clean, memory, moment)
    as_own, _ = inner.loss(outputs.mixed, own, memory, moment)
    as_partner, _ = inner.loss(outputs.mixed, partners, memory, moment)
    mixture = share * as_own + (1 - share) * as_partner
    metrics = {"clean": alone.mean(), "mixed": mixture.mean()}
    return alone + mixture, aux._replace(metrics=aux.metrics | metrics)


def update(
    memory: Memory, outputs: Seen, batch: Batch, *rest: Any, inner: Method
) -> Memory:
    """Updates the memory from the clean views."""
    return inner.update(memory, outputs.clean, batch.extra.clean, *rest)


def _reversed(batch: Batch, axis_name: str | None) -> Batch:
    """Returns this device's part of the whole batch in reverse order."""

    def reverse(tree: Any, axis: int = 0) -> Any:
        return jax.tree.map(lambda x: reverse_rows(x, axis_name, axis=axis), tree)

    rest = batch._replace(views={})
    return reverse(rest)._replace(views=reverse(batch.views, axis=1))


def _keys_for_mixtures(keys: jax.Array) -> jax.Array:
    """Returns keys with which dropout draws anew."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, PURPOSE)


def unmix(
    *,
    global_probability: float,
    alpha: float,
    inner: Mapping[str, Any],
    problem: Problem,
) -> Method:
    """Makes the method from its options and those of the method that it wraps.

    Args:
      global_probability, alpha: see `Options`.
      inner: the section of the inner method; any method, with its `name`.
      problem: what both are made for.

    Raises:
      UserError: a value out of its range, here or in the inner method.
    """
    options = Options(global_probability, alpha).checked()
    method = make_from(inner, problem, key="method.inner")
    mixing = {"options": options, "axis_name": problem.axis_name}
    return method._replace(
        prepare=partial(prepare, inner=method, **mixing),
        forward=partial(forward, inner=method),
        loss=partial(loss, inner=method),
        update=partial(update, inner=method),
        notes=notes_around(method.notes, inner["name"]),
    )
