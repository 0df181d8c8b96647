"""Mixtures against a slow oracle, and the moments of what is drawn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.methods.unmix.mixture import (
    Draw,
    draw_mixture,
    own_share,
)
from invariance_propagation.methods.unmix.options import Options
from tests.methods.unmix.made import (
    GROUPS,
    SIZE,
    B,
    draw_like,
    make_batch,
    moment,
    wrap,
)
from tests.reference import mixtures


@pytest.mark.parametrize(
    ("size", "share", "centre", "left"),
    [
        # Side sqrt(1 - 0.75) = 1/2 of 8 pixels: 4 x 4 of 64.
        ((8, 8), 0.75, (0.5, 0.5), 48 / 64),
        # In a corner a quarter of it is left: 2 x 2.
        ((8, 8), 0.75, (0.0, 0.0), 60 / 64),
        # At an edge: 2 x 4.
        ((8, 8), 0.75, (0.5, 0.0), 56 / 64),
        ((8, 8), 0.0, (0.5, 0.5), 0.0),  # all is pasted
        ((8, 8), 0.0, (0.0, 0.99), 1 - 4 * 5 / 64),  # rows 0-3, columns 3-7
        ((8, 8), 1.0, (0.5, 0.5), 1.0),  # nothing is
        # int(8 * sqrt(0.1)) = 2 by int(4 * sqrt(0.1)) = 1, which halves to nothing.
        ((8, 4), 0.9, (0.5, 0.5), 1.0),
        # int(7 * sqrt(0.7)) = 5, and 5 // 2 on either side: 4 x 4 of 49.
        ((7, 7), 0.3, (0.5, 0.5), 33 / 49),
    ],
)
def test_the_box_of_small_cases(
    size: tuple, share: float, centre: tuple, left: float
) -> None:
    draw = Draw(jnp.array(False), jnp.float32(share), jnp.array(centre, jnp.float32))
    own = own_share(draw, *size)
    np.testing.assert_allclose(own.mean(), left, atol=1e-6)
    assert set(np.unique(own)) <= {0.0, 1.0}
    rows, columns = mixtures.box(*size, share, centre)
    assert 1 - len(rows) * len(columns) / (size[0] * size[1]) == pytest.approx(left)
    # Blended, the whole image has the share that was drawn.
    blended = own_share(draw._replace(is_global=jnp.array(True)), *size)
    np.testing.assert_allclose(blended, np.full((*size, 1), share, np.float32))


@pytest.mark.parametrize("step", range(6))
def test_every_view_is_mixed_as_the_oracle_does(step: int) -> None:
    method, batch = wrap(), make_batch(GROUPS)
    prepared = method.prepare(batch, moment(step))
    draw = draw_like(moment(step).key, Options(0.5, 1.0))
    chosen = {"is_global": bool(draw.is_global), "share": float(draw.share)}
    shares = []
    for name, views in batch.views.items():
        np.testing.assert_array_equal(prepared.views[name], views)
        for view, found in zip(views, prepared.views[f"mixed {name}"], strict=True):
            wanted, share = mixtures.mix(
                np.asarray(view), **chosen, centre=tuple(draw.centre)
            )
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        shares.append(share)
    np.testing.assert_allclose(prepared.extra.share, np.mean(shares), atol=1e-6)
    # Groups of other sizes round their box in another way; blended, there is none.
    assert abs(shares[0] - shares[1]) < (1e-7 if draw.is_global else 0.25)


def test_the_steps_above_are_of_both_kinds() -> None:
    kinds = {
        bool(draw_mixture(moment(s).key, Options(0.5, 1.0)).is_global) for s in range(6)
    }
    assert kinds == {True, False}


def test_the_reverse_of_a_mixture_has_both_images_in_each_others_places() -> None:
    # This is why one pass of the mixture is enough.
    batch = make_batch()
    method = wrap()
    reverse = batch._replace(views={"view": batch.views["view"][:, ::-1]})
    for step in range(4):
        one = method.prepare(batch, moment(step)).views["mixed view"]
        two = method.prepare(reverse, moment(step)).views["mixed view"]
        np.testing.assert_array_equal(two, one[:, ::-1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_has_the_moments_of_its_beta(alpha: float) -> None:
    keys = jax.random.split(jax.random.key(5), 4000)
    draws = jax.vmap(partial(draw_mixture, options=Options(0.3, alpha)))(keys)
    share = np.asarray(draws.share, np.float64)
    deviation = (1 / (4 * (2 * alpha + 1))) ** 0.5
    # Five standard errors of 4,000 draws.
    assert abs(share.mean() - 0.5) < 5 * deviation / 4000**0.5
    assert abs(share.std() / deviation - 1) < 0.05
    assert abs(draws.is_global.mean() - 0.3) < 5 * (0.21 / 4000) ** 0.5
    assert abs(np.asarray(draws.centre).mean(axis=0) - 0.5).max() < 5 * 0.289 / 63
    # What is drawn together does not go together.
    together = np.corrcoef(np.stack([share, *np.asarray(draws.centre).T]))
    assert abs(together - np.eye(3)).max() < 0.08


def test_all_mixtures_are_of_one_kind_if_asked() -> None:
    keys = jax.random.split(jax.random.key(5), 200)
    for probability in (0.0, 1.0):
        options = Options(probability, 1.0)
        draws = jax.vmap(partial(draw_mixture, options=options))(keys)
        assert bool((draws.is_global == bool(probability)).all())


def test_clips_are_mixed_frame_by_frame() -> None:
    inner = {"name": "tests.toys:tracking", "frames": 3}
    prepared = wrap(inner).prepare(make_batch(), moment())
    clips, mixed = prepared.views["clip"], prepared.views["mixed clip"]
    assert clips.shape == mixed.shape == (1, B, 3, SIZE, SIZE, 1)
    draw = draw_like(moment().key, Options(0.5, 1.0))
    for frame in range(3):
        wanted, _ = mixtures.mix(
            np.asarray(clips[0, :, frame]),
            is_global=bool(draw.is_global),
            share=float(draw.share),
            centre=tuple(draw.centre),
        )
        np.testing.assert_allclose(mixed[0, :, frame], wanted, atol=1e-5)
