"""Compares losses, gradients and neighbours with golden values and with the oracle."""

import functools
import inspect
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import (
    Losses,
    distinct,
    init_bank,
    init_graph,
    invp_losses,
    propagate,
    update_bank,
    update_graph,
)
from tests.reference import objective as oracle
from tests.tiny_run import ROOT

FORMS = ("paper", "released")
BOTH_FORMS = pytest.mark.parametrize("form", FORMS)
# For cases that share no compiled program with others; the rest is compiled as in training.
HARD_AND_EASY = pytest.mark.parametrize("positives", ["hard", "easy"])
DEFAULTS = dict(
    num_hops=2,
    num_hard=4,
    background_size=12,
    temperature=0.2,
    form="paper",
    positives="hard",
)


class Result(NamedTuple):
    instance: np.ndarray
    propagation: np.ndarray
    neighbors: np.ndarray
    instance_gradient: np.ndarray
    propagation_gradient: np.ndarray


@functools.cache
def compiled(**options: Any):
    """Losses, neighbors, and the gradient of the sum of both losses under given weights: one compilation for many questions."""

    def run(weights: jax.Array, embeddings: jax.Array, *others: jax.Array) -> tuple:
        def terms(embeddings: jax.Array) -> tuple[tuple, jax.Array]:
            losses = invp_losses(embeddings, *others, **options)
            return (losses.instance, losses.propagation), losses.neighbors

        losses, pull, neighbors = jax.vjp(terms, embeddings, has_aux=True)
        return (*losses, neighbors), *pull((weights[0], weights[1]))

    return jax.jit(run)


def weighted_gradient(
    weights: np.ndarray, problem: tuple, **options: Any
) -> np.ndarray:
    return np.asarray(compiled(**options)(weights, *problem)[1])


def evaluate(problem: tuple, **options: Any) -> Result:
    """Losses of each image, and the gradient of each by that image's embedding."""
    one = np.ones(len(problem[1]), np.float32)
    (instance, propagation, neighbors), _ = compiled(**options)(
        np.stack([one, one]), *problem
    )
    assert instance.dtype == propagation.dtype == jnp.float32
    assert neighbors.dtype == jnp.int32
    return Result(
        np.asarray(instance),
        np.asarray(propagation),
        np.asarray(neighbors),
        weighted_gradient(np.stack([one, 0 * one]), problem, **options),
        weighted_gradient(np.stack([0 * one, one]), problem, **options),
    )


def assert_gradient(
    got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5
) -> None:
    """Within `tolerance` of the largest entry: a gradient is a sum over bank rows divided by the temperature."""
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max())
    )


def assert_same(got: Result, expected: Result) -> None:
    """Two results of the package itself: only the order of float32 sums may differ."""
    np.testing.assert_allclose(got.instance, expected.instance, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(
        got.propagation, expected.propagation, rtol=1e-6, atol=2e-6
    )
    assert_gradient(got.instance_gradient, expected.instance_gradient, 2e-6)
    assert_gradient(got.propagation_gradient, expected.propagation_gradient, 2e-6)


def assert_is_the_oracle(
    result: Result, expected: oracle.Objective, tolerance: float = 1e-5
) -> None:
    np.testing.assert_allclose(
        result.instance, expected.instance, rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        result.propagation, expected.propagation, rtol=tolerance, atol=tolerance
    )
    assert_gradient(result.instance_gradient, expected.instance_gradient, tolerance)
    assert_gradient(
        result.propagation_gradient, expected.propagation_gradient, tolerance
    )


# --- Golden values: the conformance fixture of the specification -------------------------------------------------------------------------

ANGLES = np.deg2rad([0, 10, 25, 45, 70, 100, 140, 180])
VIEWS = np.deg2rad([4, 51])
LENGTHS = np.array([[3.0], [0.5]])
FIXTURE = (
    np.stack([np.cos(VIEWS), np.sin(VIEWS)], axis=1) * LENGTHS,
    np.array([0, 3]),
    np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1),
    np.array([[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7], [6, 0]]),
)
FIXTURE_OPTIONS = dict(num_hops=2, num_hard=3, background_size=5, temperature=0.5)
RELEASED_INSTANCE = [1.33390743, 1.35056101]
# The paper form has no 1e-7: its instance loss is the released one with `exp(-loss) + 1e-7` undone.
PAPER_INSTANCE = -np.log(np.exp(np.negative(RELEASED_INSTANCE)) - 1e-7)
GOLDEN = [
    ("released", "hard", RELEASED_INSTANCE, [0.16312723, 0.38133827]),
    ("released", "easy", RELEASED_INSTANCE, [-0.06642487, -0.01632003]),
    ("paper", "hard", PAPER_INSTANCE, [0.11622338, 0.0]),
    # The three positives of the first anchor are fewer than four: hard and easy are the same set.
    ("paper", "easy", PAPER_INSTANCE, [0.11622338, 0.0]),
]
# Gradients of the batch mean (released, hard) with respect to the normalised embedding as a free vector.
GOLDEN_SLOPES = {
    "instance": np.array([[-0.126347, 0.333990], [-0.114569, -0.055224]]),
    "propagation": np.array([[-0.026241, -0.042867], [-0.097701, 0.142579]]),
}


@pytest.mark.parametrize(("form", "positives", "instance", "propagation"), GOLDEN)
def test_fixture_in_the_oracle(
    form: str, positives: str, instance: list, propagation: list
) -> None:
    result = oracle.losses(*FIXTURE, **FIXTURE_OPTIONS, form=form, positives=positives)
    np.testing.assert_allclose(result.instance, instance, rtol=0, atol=1e-8)
    np.testing.assert_allclose(result.propagation, propagation, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("form", "positives", "instance", "propagation"), GOLDEN)
def test_fixture_losses(
    form: str, positives: str, instance: list, propagation: list
) -> None:
    # Eight printed digits are more than float32 holds; 5e-7 is four units in its last place at 1.35.
    result = evaluate(FIXTURE, **FIXTURE_OPTIONS, form=form, positives=positives)
    np.testing.assert_allclose(result.instance, instance, rtol=0, atol=5e-7)
    np.testing.assert_allclose(result.propagation, propagation, rtol=0, atol=5e-7)


@pytest.mark.usefixtures("optimized")
@BOTH_FORMS
def test_fixture_neighbors(form: str) -> None:
    # The authors' code lists [2, 1] and [2, 4]; here the same sets in descending order of similarity.
    result = evaluate(FIXTURE, **FIXTURE_OPTIONS, form=form, positives="hard")
    np.testing.assert_array_equal(result.neighbors, [[1, 2], [4, 2]])
    np.testing.assert_array_equal(
        oracle.losses(
            *FIXTURE, **FIXTURE_OPTIONS, form=form, positives="hard"
        ).neighbors,
        result.neighbors,
    )


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", GOLDEN_SLOPES)
def test_fixture_gradient(name: str) -> None:
    slope = GOLDEN_SLOPES[name]
    expected = oracle.losses(
        *FIXTURE, **FIXTURE_OPTIONS, form="released", positives="hard"
    )
    np.testing.assert_allclose(
        getattr(expected, f"{name}_slope") / 2, slope, rtol=0, atol=5e-7
    )
    # The embedding is not normalised, so only the tangent part of the free gradient is left, divided by the length.
    direction = FIXTURE[0] / LENGTHS
    tangent = (
        slope - direction * np.sum(direction * slope, axis=1, keepdims=True)
    ) / LENGTHS
    result = evaluate(FIXTURE, **FIXTURE_OPTIONS, form="released", positives="hard")
    np.testing.assert_allclose(
        getattr(result, f"{name}_gradient") / 2,
        tangent,
        rtol=0,
        atol=5e-7 * 2 / LENGTHS.min(),
    )


# --- Random problems against the oracle --------------------------------------------------------------------------------------------------

RANDOM = {
    "more positives allowed than there are": (
        dict(num_examples=40, batch=6, num_neighbors=4, anchors="near"),
        dict(num_hops=3, num_hard=50, background_size=30, temperature=0.2),
    ),
    "linear head": (
        dict(num_examples=37, batch=5, num_neighbors=2, anchors="anywhere"),
        dict(num_hops=2, num_hard=3, background_size=12, temperature=0.07),
    ),
    "background of one": (
        dict(num_examples=23, batch=7, num_neighbors=1, anchors="near"),
        dict(num_hops=3, num_hard=2, background_size=1, temperature=0.2),
    ),
    "background of everything": (
        dict(num_examples=31, batch=3, num_neighbors=3, anchors="far"),
        dict(num_hops=1, num_hard=50, background_size=31, temperature=0.5),
    ),
    "anchor outside the background": (
        dict(num_examples=64, batch=12, num_neighbors=4, anchors="far"),
        dict(num_hops=2, num_hard=1, background_size=8, temperature=0.07),
    ),
    "batch of one": (
        dict(num_examples=50, batch=1, num_neighbors=2, anchors="near"),
        dict(num_hops=4, num_hard=10, background_size=20, temperature=0.1),
    ),
    "more neighbors than background": (
        dict(num_examples=29, batch=11, num_neighbors=6, anchors="near"),
        dict(num_hops=2, num_hard=20, background_size=5, temperature=0.2),
    ),
}


# Three slots and P = 50: all are taken, and easy would be the same as hard.
RANDOM_CASES = [
    (case, positives)
    for case in RANDOM
    for positives in ("hard", "easy")
    if (case, positives) != ("background of everything", "easy")
]


@BOTH_FORMS
@pytest.mark.parametrize(("case", "positives"), RANDOM_CASES)
def test_random_problem(make_problem, case: str, form: str, positives: str) -> None:
    shape, options = RANDOM[case]
    problem = make_problem(11, **shape)
    result = evaluate(problem, **options, form=form, positives=positives)
    expected = oracle.losses(*problem, **options, form=form, positives=positives)
    assert_is_the_oracle(result, expected)
    np.testing.assert_array_equal(result.neighbors, expected.neighbors)
    np.testing.assert_array_equal(
        update_graph(problem.graph, problem.indices, result.neighbors),
        oracle.update_graph(problem.graph, problem.indices, expected.neighbors),
    )
    if case == "anchor outside the background":  # the case must be what its name says
        for x, anchor in zip(problem.embeddings, problem.indices, strict=True):
            assert (
                oracle.background_weights(
                    oracle.similarities(x, problem.bank), options["background_size"]
                )[anchor]
                == 0
            )


@BOTH_FORMS
@HARD_AND_EASY
def test_oracle_gradient_is_the_difference_quotient(
    make_problem, form: str, positives: str
) -> None:
    problem = make_problem(12, num_examples=20, batch=4, dim=3)
    options = DEFAULTS | dict(form=form, positives=positives)

    def of(name: str):
        return oracle.difference_quotients(
            lambda x: getattr(oracle.losses(x, *problem[1:], **options), name),
            problem.embeddings,
        )

    expected = oracle.losses(*problem, **options)
    np.testing.assert_allclose(expected.instance_gradient, of("instance"), atol=1e-7)
    np.testing.assert_allclose(
        expected.propagation_gradient, of("propagation"), atol=1e-7
    )


@BOTH_FORMS
def test_gradient_of_a_weighted_sum(make_problem, form: str) -> None:
    # Each image and each term has its weight, so a backward pass that drops or mixes cotangents shows here.
    problem = make_problem(13)
    options = DEFAULTS | dict(form=form)
    weights = np.random.default_rng(13).normal(size=(2, 6)).astype(np.float32)
    expected = oracle.losses(*problem, **options)
    assert_gradient(
        weighted_gradient(weights, problem, **options),
        weights[0][:, None] * expected.instance_gradient
        + weights[1][:, None] * expected.propagation_gradient,
    )


@BOTH_FORMS
def test_gradient_flows_to_the_embeddings_alone(make_problem, form: str) -> None:
    problem = make_problem(14)

    def objective(bank: jax.Array) -> jax.Array:
        losses = invp_losses(
            problem.embeddings,
            problem.indices,
            bank,
            problem.graph,
            **DEFAULTS | dict(form=form),
        )
        return jnp.sum(losses.instance + losses.propagation)

    np.testing.assert_array_equal(jax.jit(jax.grad(objective))(problem.bank), 0)


def test_defaults_are_those_of_the_paper() -> None:
    parameters = inspect.signature(invp_losses).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
    assert defaults == dict(
        num_hops=3,
        num_hard=50,
        background_size=4096,
        temperature=0.2,
        form="paper",
        positives="hard",
        selection="exact",
        precision="highest",
        num_examples=None,
        axis_name=None,
    )


# --- Ties: values whose sums are exact, so that what should tie does tie in float32 ------------------------------------------------------


@BOTH_FORMS
@pytest.mark.parametrize("background_size", [1, 2, 20, 29])
def test_ties_at_the_edge_of_the_background(
    make_tied_problem, form: str, background_size: int
) -> None:
    problem = make_tied_problem([-0.5, 0.0, 0.25], num_examples=29)
    # All positives are taken: among tied ones the choice of P would be arbitrary.
    options = DEFAULTS | dict(form=form, background_size=background_size, num_hard=50)
    result, expected = evaluate(problem, **options), oracle.losses(*problem, **options)
    assert_is_the_oracle(result, expected)
    for x, got, value, anchor in zip(
        problem.embeddings,
        result.neighbors,
        expected.neighbors,
        problem.indices,
        strict=True,
    ):
        s = oracle.similarities(x, problem.bank)
        # Which of the tied rows are named is free.
        np.testing.assert_array_equal(s[got], s[value])
        assert len(set(got.tolist())) == 4
        assert anchor not in got


@BOTH_FORMS
@pytest.mark.parametrize("background_size", [1, 2, 20, 29])
def test_all_similarities_equal(
    make_tied_problem, form: str, background_size: int
) -> None:
    problem = make_tied_problem([0.5], num_examples=29)
    options = DEFAULTS | dict(form=form, background_size=background_size, num_hard=50)
    assert_is_the_oracle(
        evaluate(problem, **options), oracle.losses(*problem, **options)
    )


@BOTH_FORMS
@HARD_AND_EASY
def test_duplicated_rows(make_problem, form: str, positives: str) -> None:
    # Every image is twice in the data set, so anchor, positives, negatives and neighbours all have a double.
    problem = make_problem(22, num_examples=16, batch=5)
    twice = problem._replace(
        bank=np.concatenate([problem.bank, problem.bank]),
        graph=np.concatenate([problem.graph, problem.graph + 16]),
    )
    # An odd M cuts through a pair.
    options = DEFAULTS | dict(form=form, positives=positives, background_size=9)
    result, expected = evaluate(twice, **options), oracle.losses(*twice, **options)
    assert_is_the_oracle(result, expected)
    for got, anchor in zip(result.neighbors, problem.indices, strict=True):
        # The double is near; the anchor itself is no neighbor.
        assert anchor + 16 in got
        assert anchor not in got
        assert len(set(got.tolist())) == 4


COLLAPSED = """
import numpy as np
from invariance_propagation import invp_losses

for count, dim, size in ((64, 16, 11), (1347, 128, 512)):
    for seed in range(4):
        random = np.random.default_rng(seed)
        row = random.normal(size=dim)
        bank = np.tile(row / np.linalg.norm(row), (count, 1)).astype(np.float32)
        graph = (np.arange(count)[:, None] + [1, 2]).astype(np.int32) % count
        anchors = random.normal(size=(32, dim)).astype(np.float32)
        losses = invp_losses(
            anchors, np.arange(32), bank, graph,
            background_size=size, temperature=1.0, num_hops=1, form="paper",
        )
        expected = np.full(32, np.log(1 + (count - 1) * size / count))
        np.testing.assert_allclose(losses.instance, expected, rtol=1e-4)
"""


def test_a_bank_of_equal_rows() -> None:
    """All M places are shared by all rows, in programs compiled as people compile them.

    XLA may compute the values to count at once more for the bracket, in a kernel that
    rounds them another way; a fifth of the anchors had log(N) here.
    """
    environment = os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COLLAPSED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@BOTH_FORMS
def test_background_of_one_tied_with_the_anchor(make_tied_problem, form: str) -> None:
    # M = 1 and other rows tie with the anchor: the released denominator is empty, which counts as no loss.
    problem = make_tied_problem([-0.5, 0.0], num_examples=29)
    problem.bank[problem.indices, 0] = 0.75
    options = DEFAULTS | dict(form=form, background_size=1, num_hard=50)
    result = evaluate(problem, **options)
    assert_is_the_oracle(result, oracle.losses(*problem, **options))
    if form == "released":
        np.testing.assert_array_equal(result.propagation, 0)
        np.testing.assert_array_equal(result.propagation_gradient, 0)


# --- Corners -----------------------------------------------------------------------------------------------------------------------------


def test_fresh_graph_has_no_propagation_loss(make_problem) -> None:
    problem = make_problem(31)._replace(graph=init_graph(40, 4))
    result = evaluate(problem, **DEFAULTS)
    np.testing.assert_array_equal(result.propagation, 0)
    np.testing.assert_array_equal(result.propagation_gradient, 0)
    assert np.all(np.isfinite(result.instance_gradient))


def test_fresh_graph_in_the_released_form(make_problem) -> None:
    # The released slots keep the anchor, so here every slot is the anchor, which counts as a positive.
    problem = make_problem(31)._replace(graph=np.asarray(init_graph(40, 4)))
    options = DEFAULTS | dict(form="released")
    assert_is_the_oracle(
        evaluate(problem, **options), oracle.losses(*problem, **options)
    )


@HARD_AND_EASY
def test_fresh_rows_among_visited_ones(make_problem, positives: str) -> None:
    problem = make_problem(32)
    graph = problem.graph.copy()
    fresh = problem.indices[::2]
    graph[fresh] = fresh[:, None]
    problem = problem._replace(graph=graph)
    options = DEFAULTS | dict(positives=positives)
    result = evaluate(problem, **options)
    assert_is_the_oracle(result, oracle.losses(*problem, **options))
    np.testing.assert_array_equal(result.propagation[::2], 0)
    np.testing.assert_array_equal(result.propagation_gradient[::2], 0)
    assert np.all(result.propagation[1::2] > 0)


@pytest.mark.parametrize(
    ("num_hard", "positives"), [(2, "hard"), (2, "easy"), (50, "hard")]
)
def test_background_of_positives_alone(
    make_problem, positives: str, num_hard: int
) -> None:
    # Graph rows are the four nearest. With M = 5 the background holds only positives, so nothing is pushed away.
    problem = make_problem(33)
    nearest = oracle.losses(*problem, **DEFAULTS).neighbors
    problem = problem._replace(
        graph=oracle.update_graph(problem.graph, problem.indices, nearest)
    )
    options = dict(
        num_hops=1,
        num_hard=num_hard,
        background_size=5,
        temperature=0.07,
        positives=positives,
    )
    result = evaluate(problem, **DEFAULTS | options)
    np.testing.assert_allclose(result.propagation, 0, atol=1e-7)
    np.testing.assert_allclose(result.propagation_gradient, 0, atol=1e-5)


@BOTH_FORMS
def test_zero_embedding(make_problem, form: str) -> None:
    problem = make_problem(34)
    options = DEFAULTS | dict(form=form)
    expected = evaluate(problem, **options)
    problem.embeddings[2] = 0
    result = evaluate(problem, **options)
    assert all(np.all(np.isfinite(part)) for part in result)
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(
        result.propagation_gradient[rest],
        expected.propagation_gradient[rest],
        atol=1e-5,
    )
    # All similarities are zero: the anchor stands against the other eleven and its share of the background.
    others = 12 * 39 / 40
    np.testing.assert_allclose(
        result.instance[2],
        np.log(12) if form == "released" else np.log1p(others),
        atol=1e-5,
    )


DIVERGED = """
import jax, numpy as np
from invariance_propagation import invp_losses
from tests.conftest import random_problem

problem = random_problem(38)
broken = problem.embeddings.copy()
# The two signs of NaN sort to opposite ends of all floats; 0 / 0 on x86 makes the negative one.
broken[0], broken[1], broken[2] = np.nan, np.copysign(np.nan, -1), np.inf
for form in ("paper", "released"):
    run = jax.jit(lambda x: invp_losses(
        x, *problem[1:], num_hops=2, num_hard=4, background_size=12, form=form))
    expected, losses = run(problem.embeddings), run(broken)
    for name in ("instance", "propagation"):
        got, value = np.asarray(getattr(losses, name)), getattr(expected, name)
        assert not np.isfinite(got[:3]).any(), f"{form} {name} hides it: {got}"
        np.testing.assert_allclose(got[3:], value[3:], rtol=1e-5, atol=1e-5)
"""


def test_a_diverged_embedding_shows_in_its_losses() -> None:
    # Runs in another process, because an endless search for the end of the background would hang the suite.
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", DIVERGED],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


@BOTH_FORMS
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_length_of_an_embedding_does_not_matter(
    make_problem, form: str, scale: float
) -> None:
    problem = make_problem(35)
    options = DEFAULTS | dict(form=form)
    expected = evaluate(problem, **options)
    result = evaluate(
        problem._replace(embeddings=problem.embeddings * np.float32(scale)), **options
    )
    np.testing.assert_allclose(result.instance, expected.instance, atol=5e-6)
    np.testing.assert_allclose(result.propagation, expected.propagation, atol=5e-6)
    assert_gradient(result.instance_gradient * scale, expected.instance_gradient)
    assert_gradient(result.propagation_gradient * scale, expected.propagation_gradient)


@BOTH_FORMS
@HARD_AND_EASY
@pytest.mark.parametrize("anchors", ["near", "far"])
@pytest.mark.parametrize("temperature", [0.07, 0.01])
def test_low_temperature_stays_finite(
    make_problem, temperature: float, anchors: str, form: str, positives: str
) -> None:
    # exp(1 / 0.01) is 2.7e43: beyond float32, so only sums in log-space survive. Far anchors make ratios of e^-200.
    problem = make_problem(36, anchors=anchors)
    problem.bank[:20] *= 1.2 / np.linalg.norm(problem.bank[:20], axis=1, keepdims=True)
    options = DEFAULTS | dict(form=form, positives=positives, temperature=temperature)
    result = evaluate(problem, **options)
    assert all(np.all(np.isfinite(part)) for part in result)
    # A similarity carries an error of about 1e-7, and the temperature divides it.
    assert_is_the_oracle(
        result,
        oracle.losses(*problem, **options),
        tolerance=max(1e-5, 3e-7 / temperature),
    )


@BOTH_FORMS
def test_released_constant_caps_the_loss(make_problem, form: str) -> None:
    # 1e-7 inside the logarithm caps the released loss at 16.118; the paper form has no cap.
    problem = make_problem(37, anchors="far")
    instance = evaluate(
        problem, **DEFAULTS | dict(form=form, temperature=0.01)
    ).instance
    if form == "released":
        np.testing.assert_allclose(instance, 16.118096, atol=1e-4)
    else:
        assert np.all(instance > 30)


# --- Invariances -------------------------------------------------------------------------------------------------------------------------


@BOTH_FORMS
@HARD_AND_EASY
def test_permuting_the_batch_permutes_the_result(
    make_problem, form: str, positives: str
) -> None:
    problem = make_problem(41)
    options = DEFAULTS | dict(form=form, positives=positives)
    order = np.random.default_rng(41).permutation(6)
    result = evaluate(problem, **options)
    permuted = evaluate(
        problem._replace(
            embeddings=problem.embeddings[order], indices=problem.indices[order]
        ),
        **options,
    )
    np.testing.assert_array_equal(permuted.neighbors, result.neighbors[order])
    assert_same(permuted, Result(*(part[order] for part in result)))


@BOTH_FORMS
@HARD_AND_EASY
def test_renaming_the_images_renames_the_neighbors(
    make_problem, form: str, positives: str
) -> None:
    problem = make_problem(42)
    options = DEFAULTS | dict(form=form, positives=positives)
    # Image i is called name[i].
    name = np.random.default_rng(42).permutation(40).astype(np.int32)
    old = np.argsort(name)
    renamed = problem._replace(
        indices=name[problem.indices],
        bank=problem.bank[old],
        graph=name[problem.graph[old]],
    )
    result, expected = evaluate(renamed, **options), evaluate(problem, **options)
    np.testing.assert_array_equal(result.neighbors, name[expected.neighbors])
    assert_same(result, expected)


@BOTH_FORMS
def test_rows_do_not_see_each_other(make_problem, form: str) -> None:
    problem = make_problem(43)
    options = DEFAULTS | dict(form=form)
    result = evaluate(problem, **options)
    alone = evaluate(
        problem._replace(
            embeddings=problem.embeddings[3:4], indices=problem.indices[3:4]
        ),
        **options,
    )
    np.testing.assert_array_equal(alone.neighbors, result.neighbors[3:4])
    assert_same(alone, Result(*(part[3:4] for part in result)))


def test_neighbors_are_other_images_in_descending_order(make_problem) -> None:
    # Anchors equal their rows of the bank, so a search that kept the anchor would list it first.
    problem = make_problem(44)
    problem = problem._replace(embeddings=problem.bank[problem.indices] * 2)
    neighbors = evaluate(problem, **DEFAULTS).neighbors
    for x, row, anchor in zip(
        problem.embeddings, neighbors, problem.indices, strict=True
    ):
        assert anchor not in row
        assert len(set(row.tolist())) == 4
        assert np.all(np.diff(oracle.similarities(x, problem.bank)[row]) < 0)


def test_as_many_neighbors_as_there_are_others(make_problem) -> None:
    problem = make_problem(45, num_examples=5, batch=3, num_neighbors=4)
    neighbors = evaluate(problem, **DEFAULTS | dict(background_size=5)).neighbors
    for row, anchor in zip(neighbors, problem.indices, strict=True):
        assert sorted([*row.tolist(), anchor]) == list(range(5))


# --- Input -------------------------------------------------------------------------------------------------------------------------------


def test_every_public_function_takes_numpy(make_problem) -> None:
    # NumPy's defaults are float64 and int64. The result is float32 and int32 anyway.
    problem = make_problem(51)
    embeddings, bank = (
        problem.embeddings.astype(np.float64),
        problem.bank.astype(np.float64),
    )
    indices, graph = problem.indices.astype(np.int64), problem.graph.astype(np.int64)
    # Closed over, the arrays stay NumPy arrays inside jit, which is faster than hundreds of single operations.
    losses = jax.jit(
        lambda: invp_losses(embeddings, indices, bank, graph, **DEFAULTS)
    )()
    assert isinstance(losses, Losses)
    slots = propagate(graph, indices)
    new_graph = update_graph(graph, indices, np.asarray(losses.neighbors, np.int64))
    new_bank = update_bank(bank, indices, embeddings)
    assert [
        x.dtype
        for x in (
            losses.instance,
            losses.propagation,
            new_bank,
            init_bank(jax.random.key(0), 3, 2),
        )
    ] == [jnp.float32] * 4
    assert [
        x.dtype for x in (losses.neighbors, slots, new_graph, init_graph(3, 2))
    ] == [jnp.int32] * 4
    assert distinct(np.asarray(slots, np.int64), indices).dtype == bool
    expected = evaluate(problem, **DEFAULTS)
    np.testing.assert_allclose(losses.instance, expected.instance, atol=2e-6)
    np.testing.assert_allclose(losses.propagation, expected.propagation, atol=2e-6)
    np.testing.assert_array_equal(losses.neighbors, expected.neighbors)


@BOTH_FORMS
def test_bfloat16_embeddings_are_read_in_float32(make_problem, form: str) -> None:
    # A mixed-precision encoder: 2^-8 of a similarity divided by the temperature would be an error of a few percent.
    problem = make_problem(52)
    short = jnp.asarray(problem.embeddings, jnp.bfloat16)
    options = DEFAULTS | dict(form=form)
    result = evaluate(problem._replace(embeddings=short), **options)
    exact = problem._replace(embeddings=np.asarray(short, np.float32))
    expected = evaluate(exact, **options)
    np.testing.assert_allclose(result.instance, expected.instance, atol=2e-6)
    np.testing.assert_allclose(result.propagation, expected.propagation, atol=2e-6)
    np.testing.assert_array_equal(result.neighbors, expected.neighbors)
    assert result.instance_gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("background_size", 41),
        ("num_hops", 0),
        ("num_hard", 0),
        ("temperature", 0.0),
        ("temperature", -0.2),
        ("form", "arxiv"),
        ("positives", "all"),
    ],
)
def test_impossible_option_is_an_error(make_problem, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        invp_losses(*make_problem(53), **DEFAULTS | {name: value})


def test_more_neighbors_than_other_images_is_an_error(make_problem) -> None:
    problem = make_problem(54, num_examples=4, batch=2, num_neighbors=3)
    graph = np.concatenate([problem.graph, problem.graph[:, :1]], axis=1)
    with pytest.raises(ValueError, match="neighbors"):
        invp_losses(
            *problem._replace(graph=graph), **DEFAULTS | dict(background_size=4)
        )


@pytest.mark.parametrize("name", ["background_size", "num_hard", "temperature"])
def test_message_names_the_value(make_problem, name: str) -> None:
    value = {"background_size": 4097, "num_hard": -17, "temperature": -0.375}[name]
    with pytest.raises(ValueError, match=f"{value}"):
        invp_losses(*make_problem(53), **DEFAULTS | {name: value})


def test_a_sharded_graph_has_the_rows_of_the_bank(make_problem) -> None:
    problem = make_problem(0)
    count = len(problem.graph)
    options = {"background_size": 12, "num_hops": 2, "num_hard": 4}
    whole = invp_losses(*problem, **options)
    sharded = invp_losses(*problem, **options, num_examples=count)
    jax.tree.map(np.testing.assert_array_equal, sharded, whole)
    shorter = problem._replace(graph=problem.graph[1:])
    with pytest.raises(ValueError, match=f"graph has {count - 1} rows and bank has"):
        invp_losses(*shorter, **options, num_examples=count)
