"""How far the cheaper ways to search the bank are from the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import Losses, invp_losses
from invariance_propagation.core import search
from invariance_propagation.core.bank import normalize

N, DIM, BATCH, OPTIONS = 900, 64, 16, dict(num_hops=2, num_hard=5, background_size=200)


def problem(examples: int = N) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    bank = normalize(jax.random.normal(keys[0], (examples, DIM)))
    graph = jax.random.randint(keys[1], (examples, 4), 0, examples)
    noise = jax.random.normal(keys[2], (BATCH, DIM))
    return normalize(bank[:BATCH] + 0.1 * noise), jnp.arange(BATCH), bank, graph


def losses(
    embeddings: jax.Array | None = None, examples: int = N, **changes: str
) -> Losses:
    own, *others = problem(examples)
    embeddings = own if embeddings is None else embeddings
    return jax.jit(lambda *x: invp_losses(*x, **OPTIONS, **changes))(
        embeddings, *others
    )


@pytest.mark.parametrize("form", ["paper", "released"])
def test_approx_finds_what_a_cpu_finds_exactly(form: str) -> None:
    # `lax.approx_max_k` is exact on a CPU, so this tests how it is used.
    exact, approx = losses(form=form), losses(form=form, selection="approx")
    for name in ("instance", "propagation"):
        np.testing.assert_allclose(
            getattr(approx, name), getattr(exact, name), rtol=1e-6
        )
    np.testing.assert_array_equal(approx.neighbors, exact.neighbors)


def test_bfloat16_is_near_and_returns_float32() -> None:
    exact, coarse = losses(), losses(precision="bfloat16")
    for name in ("instance", "propagation"):
        found, expected = getattr(coarse, name), getattr(exact, name)
        assert found.dtype == jnp.float32
        error = np.abs(found - expected).max()
        assert 1e-5 < error < 0.05  # the lower bound: it must have been used


def test_high_is_float32_on_a_cpu() -> None:
    np.testing.assert_array_equal(losses().instance, losses(precision="high").instance)


# Of 16 anchors, 3 at a time leave a last chunk that is not full, and so does 1 of 24. With
# 896 images, a pass down the columns takes them in several parts.
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 24])
@pytest.mark.parametrize(("axis", "examples"), [(0, N), (0, 896), (1, N)])
def test_every_pace_sees_the_same(
    monkeypatch: pytest.MonkeyPatch, rows: int, axis: int, examples: int
) -> None:
    def both() -> tuple:
        def total(embeddings: jax.Array) -> tuple:
            found = losses(embeddings, examples)
            return jnp.sum(found.instance + found.propagation), found

        return jax.grad(total, has_aux=True)(problem(examples)[0])

    together = both()
    if axis == 0:
        pace = search.Pace(0, fewest=rows, most=rows, axis=0)
        assert search.anchors_at_once(BATCH, examples, pace) == rows
    else:
        pace = search.Pace(4 * N * rows + 3, fewest=1, most=99, axis=1)
        even = -(-BATCH // -(-BATCH // rows))
        assert search.anchors_at_once(BATCH, examples, pace) == even
    monkeypatch.setitem(search.PACES, "cpu", pace)
    apart = both()
    np.testing.assert_array_equal(apart[1].neighbors, together[1].neighbors)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
        apart,
        together,
    )


@pytest.mark.parametrize(
    ("anchors", "columns", "together"),
    [
        (6, 10**10, 1),  # at least one
        (6, 10, 6),
        # 2 at a time, a divisor of 254, would read the bank 127 times.
        (254, 10**8, 85),
        (256, 10, 128),
    ],
)
def test_chunks_are_few_and_even(anchors: int, columns: int, together: int) -> None:
    pace = search.Pace(4 * 10**8 * 104, fewest=1, most=128, axis=1)
    assert search.anchors_at_once(anchors, columns, pace) == together


def test_a_cpu_compares_enough_anchors_to_read_the_bank_seldom() -> None:
    assert search.anchors_at_once(64, 10**8, search.PACES["cpu"]) == 32


@pytest.mark.parametrize("anchors", [1, 64, 128, 192, 4096])
def test_a_tpu_fills_its_lanes(anchors: int) -> None:
    for columns in (10, 10**8):
        assert search.anchors_at_once(anchors, columns, search.PACES["tpu"]) == 128
