"""The two losses, their gradients and the neighbors: against golden values, against the oracle, and under every way of splitting the work."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from invariance_propagation import Losses, distinct, init_bank, init_graph, invp_losses, propagate, update_bank, update_graph
from tests.reference import objective as oracle

FORMS = ('paper', 'released')
BOTH_FORMS = pytest.mark.parametrize('form', FORMS)
HARD_AND_EASY = pytest.mark.parametrize('positives', ['hard', 'easy'])
DEFAULTS = dict(num_hops=2, num_hard=4, background_size=12, temperature=0.2, form='paper', positives='hard')


class Result(NamedTuple):
    instance: np.ndarray
    propagation: np.ndarray
    neighbors: np.ndarray
    instance_gradient: np.ndarray
    propagation_gradient: np.ndarray


@functools.cache
def compiled(**options: Any):
    def run(embeddings: jax.Array, indices: jax.Array, bank: jax.Array, graph: jax.Array) -> Result:
        def terms(embeddings: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            losses = invp_losses(embeddings, indices, bank, graph, **options)
            return (losses.instance, losses.propagation), losses.neighbors

        (instance, propagation), pull, neighbors = jax.vjp(terms, embeddings, has_aux=True)
        one, zero = jnp.ones_like(instance), jnp.zeros_like(instance)
        return Result(instance, propagation, neighbors, *pull((one, zero)), *pull((zero, one)))

    return jax.jit(run)


def evaluate(problem: tuple, **options: Any) -> Result:
    """Losses of each image, and the gradient of each by that image's embedding."""
    result = compiled(**options)(*problem)
    assert result.neighbors.dtype == jnp.int32
    assert all(part.dtype == jnp.float32 for name, part in result._asdict().items() if name != 'neighbors')
    return Result(*map(np.asarray, result))


def assert_gradient(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest entry: a gradient is a sum over bank rows divided by the temperature."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def assert_is_the_oracle(result: Result, expected: oracle.Objective, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(result.instance, expected.instance, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result.propagation, expected.propagation, rtol=tolerance, atol=tolerance)
    assert_gradient(result.instance_gradient, expected.instance_gradient, tolerance)
    assert_gradient(result.propagation_gradient, expected.propagation_gradient, tolerance)


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
    ('released', 'hard', RELEASED_INSTANCE, [0.16312723, 0.38133827]),
    ('released', 'easy', RELEASED_INSTANCE, [-0.06642487, -0.01632003]),
    ('paper', 'hard', PAPER_INSTANCE, [0.11622338, 0.0]),
    # The three positives of the first anchor are fewer than four: hard and easy are the same set.
    ('paper', 'easy', PAPER_INSTANCE, [0.11622338, 0.0]),
]
# By the normalised embedding as a free vector, of the mean over the batch; released, hard.
GOLDEN_SLOPES = {
    'instance': np.array([[-0.126347, 0.333990], [-0.114569, -0.055224]]),
    'propagation': np.array([[-0.026241, -0.042867], [-0.097701, 0.142579]]),
}


@pytest.mark.parametrize(('form', 'positives', 'instance', 'propagation'), GOLDEN)
def test_fixture_in_the_oracle(form: str, positives: str, instance: list, propagation: list) -> None:
    result = oracle.losses(*FIXTURE, **FIXTURE_OPTIONS, form=form, positives=positives)
    np.testing.assert_allclose(result.instance, instance, rtol=0, atol=1e-8)
    np.testing.assert_allclose(result.propagation, propagation, rtol=0, atol=1e-8)


@pytest.mark.parametrize(('form', 'positives', 'instance', 'propagation'), GOLDEN)
def test_fixture_losses(form: str, positives: str, instance: list, propagation: list) -> None:
    # Eight printed digits are more than float32 holds; 5e-7 is four units in its last place at 1.35.
    result = evaluate(FIXTURE, **FIXTURE_OPTIONS, form=form, positives=positives)
    np.testing.assert_allclose(result.instance, instance, rtol=0, atol=5e-7)
    np.testing.assert_allclose(result.propagation, propagation, rtol=0, atol=5e-7)


@BOTH_FORMS
def test_fixture_neighbors(form: str) -> None:
    # The released code lists [2, 1] and [2, 4]; here the same sets in descending order of similarity.
    result = evaluate(FIXTURE, **FIXTURE_OPTIONS, form=form, positives='hard')
    np.testing.assert_array_equal(result.neighbors, [[1, 2], [4, 2]])
    np.testing.assert_array_equal(oracle.losses(*FIXTURE, **FIXTURE_OPTIONS, form=form, positives='hard').neighbors, result.neighbors)


@pytest.mark.parametrize('name', GOLDEN_SLOPES)
def test_fixture_gradient(name: str) -> None:
    slope = GOLDEN_SLOPES[name]
    expected = oracle.losses(*FIXTURE, **FIXTURE_OPTIONS, form='released', positives='hard')
    np.testing.assert_allclose(getattr(expected, f'{name}_slope') / 2, slope, rtol=0, atol=5e-7)
    # The embedding is not normalised: of the free gradient only the tangent part is left, divided by the length.
    direction = FIXTURE[0] / LENGTHS
    tangent = (slope - direction * np.sum(direction * slope, axis=1, keepdims=True)) / LENGTHS
    result = evaluate(FIXTURE, **FIXTURE_OPTIONS, form='released', positives='hard')
    np.testing.assert_allclose(getattr(result, f'{name}_gradient') / 2, tangent, rtol=0, atol=5e-7 * 2 / LENGTHS.min())


# --- Random problems against the oracle --------------------------------------------------------------------------------------------------

RANDOM = {
    'more positives allowed than there are': (
        dict(num_examples=40, batch=6, num_neighbors=4, anchors='near'),
        dict(num_hops=3, num_hard=50, background_size=30, temperature=0.2),
    ),
    'linear head': (
        dict(num_examples=37, batch=5, num_neighbors=2, anchors='anywhere'),
        dict(num_hops=2, num_hard=3, background_size=12, temperature=0.07),
    ),
    'background of one': (
        dict(num_examples=23, batch=7, num_neighbors=1, anchors='near'),
        dict(num_hops=3, num_hard=2, background_size=1, temperature=0.2),
    ),
    'background of everything': (
        dict(num_examples=31, batch=3, num_neighbors=3, anchors='far'),
        dict(num_hops=1, num_hard=50, background_size=31, temperature=0.5),
    ),
    'anchor outside the background': (
        dict(num_examples=64, batch=12, num_neighbors=4, anchors='far'),
        dict(num_hops=2, num_hard=1, background_size=8, temperature=0.07),
    ),
    'batch of one': (
        dict(num_examples=50, batch=1, num_neighbors=2, anchors='near'),
        dict(num_hops=4, num_hard=10, background_size=20, temperature=0.1),
    ),
    'more neighbors than background': (
        dict(num_examples=29, batch=11, num_neighbors=6, anchors='near'),
        dict(num_hops=2, num_hard=20, background_size=5, temperature=0.2),
    ),
}


@BOTH_FORMS
@HARD_AND_EASY
@pytest.mark.parametrize('case', RANDOM)
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
    if case == 'anchor outside the background':  # the case must be what its name says
        for x, anchor in zip(problem.embeddings, problem.indices, strict=True):
            assert oracle.background_weights(oracle.similarities(x, problem.bank), options['background_size'])[anchor] == 0


@BOTH_FORMS
@HARD_AND_EASY
def test_oracle_gradient_is_the_difference_quotient(make_problem, form: str, positives: str) -> None:
    problem = make_problem(12, num_examples=20, batch=4, dim=3)
    options = DEFAULTS | dict(form=form, positives=positives)

    def of(name: str):
        return oracle.difference_quotients(lambda x: getattr(oracle.losses(x, *problem[1:], **options), name), problem.embeddings)

    expected = oracle.losses(*problem, **options)
    np.testing.assert_allclose(expected.instance_gradient, of('instance'), atol=1e-7)
    np.testing.assert_allclose(expected.propagation_gradient, of('propagation'), atol=1e-7)


@BOTH_FORMS
def test_gradient_of_a_weighted_sum(make_problem, form: str) -> None:
    # Every image and both terms with a weight of its own: a backward pass that drops or mixes cotangents shows here.
    problem = make_problem(13)
    by_instance, by_propagation = np.random.default_rng(13).normal(size=(2, 6, 1)).astype(np.float32)

    def objective(embeddings: jax.Array) -> jax.Array:
        losses = invp_losses(embeddings, *problem[1:], **DEFAULTS | dict(form=form))
        return jnp.sum(by_instance[:, 0] * losses.instance + by_propagation[:, 0] * losses.propagation)

    expected = oracle.losses(*problem, **DEFAULTS | dict(form=form))
    assert_gradient(
        jax.grad(objective)(problem.embeddings),
        by_instance * expected.instance_gradient + by_propagation * expected.propagation_gradient,
    )


@BOTH_FORMS
def test_gradient_flows_to_the_embeddings_alone(make_problem, form: str) -> None:
    problem = make_problem(14)

    def objective(bank: jax.Array) -> jax.Array:
        losses = invp_losses(problem.embeddings, problem.indices, bank, problem.graph, **DEFAULTS | dict(form=form))
        return jnp.sum(losses.instance + losses.propagation)

    np.testing.assert_array_equal(jax.grad(objective)(problem.bank), 0)


def test_defaults_are_those_of_the_paper(make_problem) -> None:
    # 4096 images, since the background may not be larger than the data set.
    problem = make_problem(15, num_examples=4100, batch=2)
    options = dict(num_hops=3, num_hard=50, background_size=4096, temperature=0.2, form='paper', positives='hard')
    expected = invp_losses(*problem, **options)
    assert isinstance(expected, Losses)
    for got, value in zip(jax.tree.leaves(invp_losses(*problem)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, value)


# --- Ties: values whose sums are exact, so that what should tie does tie in float32 ------------------------------------------------------


def tied_problem(make_problem, levels: list[float], **shape: Any):
    """Embeddings along the first axis, so that the similarity is the first coordinate of a bank row; the rows differ in the others."""
    problem = make_problem(21, **shape)
    embeddings, bank = np.zeros_like(problem.embeddings), problem.bank.copy()
    embeddings[:, 0] = 2.0 ** np.arange(len(embeddings)) / 4
    bank[:, 0] = np.random.default_rng(21).choice(levels, size=len(bank))
    return problem._replace(embeddings=embeddings, bank=bank)


@BOTH_FORMS
@pytest.mark.parametrize('background_size', [1, 2, 7, 20, 28, 29])
def test_ties_at_the_edge_of_the_background(make_problem, form: str, background_size: int) -> None:
    problem = tied_problem(make_problem, [-0.5, 0.0, 0.25], num_examples=29, batch=6)
    # All positives are taken: among tied ones the choice of P would be arbitrary.
    options = DEFAULTS | dict(form=form, background_size=background_size, num_hard=50)
    result, expected = evaluate(problem, **options), oracle.losses(*problem, **options)
    assert_is_the_oracle(result, expected)
    for x, got, value, anchor in zip(problem.embeddings, result.neighbors, expected.neighbors, problem.indices, strict=True):
        s = oracle.similarities(x, problem.bank)
        np.testing.assert_array_equal(s[got], s[value])  # which of the tied rows is free
        assert len(set(got.tolist())) == 4
        assert anchor not in got


@BOTH_FORMS
@HARD_AND_EASY
@pytest.mark.parametrize('background_size', [1, 6, 29])
def test_all_similarities_equal(make_problem, form: str, positives: str, background_size: int) -> None:
    problem = tied_problem(make_problem, [0.5], num_examples=29, batch=5)
    options = DEFAULTS | dict(form=form, positives=positives, background_size=background_size, num_hard=50)
    assert_is_the_oracle(evaluate(problem, **options), oracle.losses(*problem, **options))


@BOTH_FORMS
@HARD_AND_EASY
def test_duplicated_rows(make_problem, form: str, positives: str) -> None:
    # Every image twice in the data set: anchor, positives, negatives and neighbors all meet their double.
    problem = make_problem(22, num_examples=16, batch=5)
    twice = problem._replace(
        bank=np.concatenate([problem.bank, problem.bank]),
        graph=np.concatenate([problem.graph, problem.graph + 16]),
    )
    for background_size in (3, 8, 32):
        options = DEFAULTS | dict(form=form, positives=positives, background_size=background_size)
        result, expected = evaluate(twice, **options), oracle.losses(*twice, **options)
        assert_is_the_oracle(result, expected)
        for got, anchor in zip(result.neighbors, problem.indices, strict=True):
            assert anchor + 16 in got  # the double is near, the anchor itself is no neighbor
            assert anchor not in got
            assert len(set(got.tolist())) == 4


@BOTH_FORMS
def test_background_of_one_tied_with_the_anchor(make_problem, form: str) -> None:
    # M = 1 and the anchor's double at the same height: released has nothing left below the line, which counts as no loss.
    problem = tied_problem(make_problem, [-0.5, 0.0], num_examples=29, batch=3)
    problem.bank[problem.indices, 0] = 0.75
    problem.bank[(problem.indices[0] + 1) % 29] = problem.bank[problem.indices[0]]
    options = DEFAULTS | dict(form=form, background_size=1)
    result, expected = evaluate(problem, **options), oracle.losses(*problem, **options)
    np.testing.assert_allclose(result.propagation, expected.propagation, atol=1e-5)
    np.testing.assert_allclose(result.instance, expected.instance, atol=1e-5)
    assert all(np.all(np.isfinite(part)) for part in result)


# --- Corners -----------------------------------------------------------------------------------------------------------------------------


def test_fresh_graph_has_no_propagation_loss(make_problem) -> None:
    problem = make_problem(31)._replace(graph=init_graph(40, 4))
    result = evaluate(problem, **DEFAULTS)
    np.testing.assert_array_equal(result.propagation, 0)
    np.testing.assert_array_equal(result.propagation_gradient, 0)
    assert np.all(np.isfinite(result.instance_gradient))


def test_fresh_graph_in_the_released_form(make_problem) -> None:
    # Its slots keep the anchor, so every slot is the anchor: a positive like any other there.
    problem = make_problem(31)._replace(graph=np.asarray(init_graph(40, 4)))
    options = DEFAULTS | dict(form='released')
    assert_is_the_oracle(evaluate(problem, **options), oracle.losses(*problem, **options))


@HARD_AND_EASY
def test_fresh_rows_among_visited_ones(make_problem, positives: str) -> None:
    problem = make_problem(32, batch=9)
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


@HARD_AND_EASY
@pytest.mark.parametrize('num_hard', [2, 50])
def test_background_of_positives_alone(make_problem, positives: str, num_hard: int) -> None:
    # Graph rows are the four nearest: with M = 5 all that is left of the background are positives, and nothing is pushed away.
    problem = make_problem(33)
    nearest = oracle.losses(*problem, **DEFAULTS).neighbors
    problem = problem._replace(graph=oracle.update_graph(problem.graph, problem.indices, nearest))
    result = evaluate(problem, **DEFAULTS | dict(background_size=5, num_hops=1, num_hard=num_hard, temperature=0.07, positives=positives))
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
    np.testing.assert_allclose(result.propagation_gradient[rest], expected.propagation_gradient[rest], atol=1e-5)
    # All similarities are zero: the anchor against the other eleven and its own share of the background.
    others = 12 * 39 / 40
    np.testing.assert_allclose(result.instance[2], np.log(12) if form == 'released' else np.log1p(others), atol=1e-5)


@BOTH_FORMS
@pytest.mark.parametrize('scale', [1e-3, 1e3])
def test_length_of_an_embedding_does_not_matter(make_problem, form: str, scale: float) -> None:
    problem = make_problem(35)
    options = DEFAULTS | dict(form=form)
    expected = evaluate(problem, **options)
    result = evaluate(problem._replace(embeddings=problem.embeddings * np.float32(scale)), **options)
    np.testing.assert_allclose(result.instance, expected.instance, atol=5e-6)
    np.testing.assert_allclose(result.propagation, expected.propagation, atol=5e-6)
    assert_gradient(result.instance_gradient * scale, expected.instance_gradient)
    assert_gradient(result.propagation_gradient * scale, expected.propagation_gradient)


@BOTH_FORMS
@HARD_AND_EASY
@pytest.mark.parametrize('anchors', ['near', 'far'])
@pytest.mark.parametrize('temperature', [0.07, 0.01])
def test_low_temperature_stays_finite(make_problem, temperature: float, anchors: str, form: str, positives: str) -> None:
    # exp(1 / 0.01) is 2.7e43: beyond float32, so only sums in log-space survive. Far anchors make ratios of e^-200.
    problem = make_problem(36, anchors=anchors)
    problem.bank[:20] *= 1.2 / np.linalg.norm(problem.bank[:20], axis=1, keepdims=True)
    options = DEFAULTS | dict(form=form, positives=positives, temperature=temperature)
    result = evaluate(problem, **options)
    assert all(np.all(np.isfinite(part)) for part in result)
    # A similarity carries an error of about 1e-7, and the temperature divides it.
    assert_is_the_oracle(result, oracle.losses(*problem, **options), tolerance=max(1e-5, 3e-7 / temperature))


@BOTH_FORMS
def test_released_constant_caps_the_loss(make_problem, form: str) -> None:
    # 1e-7 inside the logarithm caps the released loss at 16.118; the paper form has no cap.
    problem = make_problem(37, anchors='far')
    instance = evaluate(problem, **DEFAULTS | dict(form=form, temperature=0.01)).instance
    if form == 'released':
        np.testing.assert_allclose(instance, 16.118096, atol=1e-4)
    else:
        assert np.all(instance > 30)


# --- Invariances -------------------------------------------------------------------------------------------------------------------------


@BOTH_FORMS
@HARD_AND_EASY
def test_permuting_the_batch_permutes_the_result(make_problem, form: str, positives: str) -> None:
    problem = make_problem(41, batch=7)
    options = DEFAULTS | dict(form=form, positives=positives)
    order = np.random.default_rng(41).permutation(7)
    result = evaluate(problem, **options)
    permuted = evaluate(problem._replace(embeddings=problem.embeddings[order], indices=problem.indices[order]), **options)
    for got, expected in zip(permuted, result, strict=True):
        np.testing.assert_allclose(got, expected[order], rtol=1e-6, atol=2e-6)


@BOTH_FORMS
@HARD_AND_EASY
def test_renaming_the_images_renames_the_neighbors(make_problem, form: str, positives: str) -> None:
    problem = make_problem(42)
    options = DEFAULTS | dict(form=form, positives=positives)
    name = np.random.default_rng(42).permutation(40).astype(np.int32)  # image i is called name[i]
    old = np.argsort(name)
    renamed = problem._replace(indices=name[problem.indices], bank=problem.bank[old], graph=name[problem.graph[old]])
    result, expected = evaluate(renamed, **options), evaluate(problem, **options)
    np.testing.assert_array_equal(result.neighbors, name[expected.neighbors])
    for part in ('instance', 'propagation', 'instance_gradient', 'propagation_gradient'):
        np.testing.assert_allclose(getattr(result, part), getattr(expected, part), rtol=1e-6, atol=1e-5)


@BOTH_FORMS
def test_rows_do_not_see_each_other(make_problem, form: str) -> None:
    problem = make_problem(43, batch=7)
    options = DEFAULTS | dict(form=form)
    result = evaluate(problem, **options)
    alone = evaluate(problem._replace(embeddings=problem.embeddings[3:4], indices=problem.indices[3:4]), **options)
    for got, expected in zip(alone, result, strict=True):
        np.testing.assert_allclose(got, expected[3:4], rtol=1e-6, atol=2e-6)


def test_neighbors_are_other_images_in_descending_order(make_problem) -> None:
    # Anchors right on their own rows: a search that kept the anchor would list it first.
    problem = make_problem(44, num_examples=29, batch=13)
    problem = problem._replace(embeddings=problem.bank[problem.indices] * 2)
    neighbors = evaluate(problem, **DEFAULTS).neighbors
    for x, row, anchor in zip(problem.embeddings, neighbors, problem.indices, strict=True):
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
    # What NumPy makes unasked: float64 and int64. The result is float32 and int32 all the same.
    problem = make_problem(51)
    embeddings, bank = problem.embeddings.astype(np.float64), problem.bank.astype(np.float64)
    indices, graph = problem.indices.astype(np.int64), problem.graph.astype(np.int64)
    losses = invp_losses(embeddings, indices, bank, graph, **DEFAULTS)
    slots = propagate(graph, indices)
    new_graph = update_graph(graph, indices, np.asarray(losses.neighbors, np.int64))
    new_bank = update_bank(bank, indices, embeddings)
    assert [x.dtype for x in (losses.instance, losses.propagation, new_bank, init_bank(jax.random.key(0), 3, 2))] == [jnp.float32] * 4
    assert [x.dtype for x in (losses.neighbors, slots, new_graph, init_graph(3, 2))] == [jnp.int32] * 4
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
    losses = invp_losses(short, *problem[1:], **DEFAULTS | dict(form=form))
    expected = evaluate(problem._replace(embeddings=np.asarray(short, np.float32)), **DEFAULTS | dict(form=form))
    assert losses.instance.dtype == losses.propagation.dtype == jnp.float32
    np.testing.assert_allclose(losses.instance, expected.instance, atol=2e-6)
    np.testing.assert_allclose(losses.propagation, expected.propagation, atol=2e-6)
    np.testing.assert_array_equal(losses.neighbors, expected.neighbors)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('background_size', 41),
        ('num_hops', 0),
        ('num_hard', 0),
        ('temperature', 0.0),
        ('temperature', -0.2),
        ('form', 'arxiv'),
        ('positives', 'all'),
    ],
)
def test_impossible_option_is_an_error(make_problem, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        invp_losses(*make_problem(53), **DEFAULTS | {name: value})


def test_more_neighbors_than_other_images_is_an_error(make_problem) -> None:
    problem = make_problem(54, num_examples=4, batch=2, num_neighbors=3)
    graph = np.concatenate([problem.graph, problem.graph[:, :1]], axis=1)
    with pytest.raises(ValueError, match='neighbors'):
        invp_losses(*problem._replace(graph=graph), **DEFAULTS | dict(background_size=4))


@pytest.mark.parametrize('name', ['background_size', 'num_hard', 'temperature'])
def test_message_names_the_value(make_problem, name: str) -> None:
    value = {'background_size': 4097, 'num_hard': -17, 'temperature': -0.375}[name]
    with pytest.raises(ValueError, match=f'{value}'):
        invp_losses(*make_problem(53), **DEFAULTS | {name: value})


# --- Devices -----------------------------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What one device returns; the graph gets a leading axis of one, so that the copies of all devices can be compared."""

    per_image: dict[str, dict[str, jax.Array]]  # [b, ...], of either form
    bank: jax.Array  # [Np / D, d]
    graph: jax.Array  # [1, N, k]


def one_step(embeddings: jax.Array, indices: jax.Array, bank: jax.Array, graph: jax.Array, *, axis_name: str | None, **options: Any) -> Step:
    global_batch = len(embeddings) * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    per_image = {}
    for form in FORMS:

        def total(embeddings: jax.Array, form: str = form) -> tuple[jax.Array, Losses]:
            losses = invp_losses(embeddings, indices, bank, graph, form=form, axis_name=axis_name, **options)
            return jnp.sum(losses.instance + 0.6 * losses.propagation) / global_batch, losses

        gradient, losses = jax.grad(total, has_aux=True)(embeddings)
        per_image[form] = dict(
            instance=losses.instance, propagation=losses.propagation, neighbors=losses.neighbors, gradient=gradient
        )
    new_graph = update_graph(graph, indices, losses.neighbors, axis_name=axis_name)
    return Step(per_image, update_bank(bank, indices, embeddings, axis_name=axis_name), new_graph[None])


def split(array: np.ndarray, num_devices: int) -> np.ndarray:
    return array.reshape(num_devices, -1, *array.shape[1:])


def merge(array: jax.Array) -> np.ndarray:
    return np.asarray(array).reshape(-1, *array.shape[2:])


def over_devices(runner: str, num_devices: int, function, problem, *, replicated: tuple = ()):
    """Runs `function(embeddings, indices, bank, graph, *replicated)` on every device; every result comes back stacked along its first axis."""
    bank = np.pad(problem.bank, ((0, -len(problem.bank) % num_devices), (0, 0)))
    sharded = (problem.embeddings, problem.indices, bank)
    shared = (problem.graph, *replicated)
    if runner == 'shard_map':
        mesh = Mesh(np.array(jax.devices()[:num_devices]), ('batch',))
        in_specs = (P('batch'),) * 3 + (P(),) * len(shared)
        mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=P('batch'), check_vma=False)
        return jax.tree.map(np.asarray, jax.jit(mapped)(*sharded, *shared))
    in_axes = (0, 0, 0) + (None,) * len(shared)
    if runner == 'vmap':
        mapped = jax.jit(jax.vmap(function, in_axes=in_axes, axis_name='batch'))
    else:
        mapped = jax.pmap(function, in_axes=in_axes, axis_name='batch', devices=jax.devices()[:num_devices])
    return jax.tree.map(merge, mapped(*(split(x, num_devices) for x in sharded), *shared))


EVERY_RUNNER = pytest.mark.parametrize('runner', ['vmap', 'pmap', 'shard_map'])
DEVICE_OPTIONS = dict(num_hops=2, num_hard=5, background_size=20, temperature=0.2, positives='hard')


@pytest.fixture(scope='module')
def undivided(make_problem) -> tuple:
    """A problem and what one device makes of it, without an axis."""
    # 29 images: padded to 30 on two devices, to 32 on four and eight. A batch of 24: three images on each of eight devices.
    # M = 20 of 29 puts the edge of the background at a negative similarity, where a zero row of padding would be let in.
    problem = make_problem(61, num_examples=29, batch=24)
    return problem, jax.jit(functools.partial(one_step, axis_name=None, **DEVICE_OPTIONS))(*problem)


@EVERY_RUNNER
@pytest.mark.parametrize('num_devices', [1, 2, 4, 8])
def test_result_does_not_depend_on_devices(undivided: tuple, runner: str, num_devices: int) -> None:
    problem, expected = undivided
    result = over_devices(runner, num_devices, functools.partial(one_step, axis_name='batch', **DEVICE_OPTIONS), problem)
    for form in FORMS:
        got, value = result.per_image[form], expected.per_image[form]
        np.testing.assert_allclose(got['instance'], value['instance'], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(got['propagation'], value['propagation'], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(got['gradient'], value['gradient'], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(got['neighbors'], value['neighbors'])
    np.testing.assert_allclose(result.bank[:29], expected.bank, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(result.bank[29:], 0)
    assert result.graph.shape == (num_devices, 29, 4)
    for copy in result.graph:  # replicated: every device must hold the same
        np.testing.assert_array_equal(copy, expected.graph[0])


@EVERY_RUNNER
@pytest.mark.parametrize('form', FORMS)
def test_gradient_of_shared_weights(make_problem, runner: str, form: str) -> None:
    # As in training: the encoder is shared, each device differentiates the mean over all, and the gradients are averaged.
    problem = make_problem(62, num_examples=29, batch=8, dim=5)
    weights = np.eye(5, dtype=np.float32) + 0.1 * np.random.default_rng(62).normal(size=(5, 5)).astype(np.float32)
    options = DEVICE_OPTIONS | dict(form=form)

    def objective(weights: jax.Array, inputs: jax.Array, *arrays: jax.Array, axis_name: str | None = None) -> jax.Array:
        losses = invp_losses(inputs @ weights, *arrays, axis_name=axis_name, **options)
        return jnp.mean(losses.instance + 0.6 * losses.propagation)

    def step(inputs: jax.Array, indices: jax.Array, bank: jax.Array, graph: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        def global_mean(weights: jax.Array) -> jax.Array:
            return jax.lax.pmean(objective(weights, inputs, indices, bank, graph, axis_name='batch'), 'batch')

        value, gradient = jax.value_and_grad(global_mean)(weights)
        return value[None], jax.lax.pmean(gradient, 'batch')[None]

    values, gradients = over_devices(runner, 4, step, problem, replicated=(weights,))
    value, gradient = jax.value_and_grad(objective)(weights, *problem)
    np.testing.assert_allclose(values, np.full(4, value), rtol=1e-6, atol=1e-6)
    for copy in gradients:
        np.testing.assert_allclose(copy, gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('num_devices', [2, 4, 8])
def test_padding_is_never_seen(make_problem, num_devices: int) -> None:
    # All rows on one side and all embeddings on the other: every similarity is negative, so a zero row would be the nearest of all.
    problem = make_problem(63, num_examples=29, batch=8)
    axis = np.eye(8, dtype=np.float32)[0]
    problem = problem._replace(bank=0.3 * problem.bank + axis, embeddings=0.1 * problem.embeddings - axis)
    options = DEVICE_OPTIONS | dict(background_size=29)
    expected = jax.jit(functools.partial(one_step, axis_name=None, **options))(*problem)
    result = over_devices('vmap', num_devices, functools.partial(one_step, axis_name='batch', **options), problem)
    assert oracle.similarities(problem.embeddings[0], problem.bank).max() < 0
    for form in FORMS:
        for name, value in expected.per_image[form].items():
            np.testing.assert_allclose(result.per_image[form][name], value, rtol=1e-6, atol=1e-6)
    assert result.graph.max() < 29


@pytest.mark.parametrize('num_devices', [2, 4, 8])
@pytest.mark.parametrize('levels', [[-0.5, 0.0, 0.25], [0.5]], ids=['three levels', 'all equal'])
def test_ties_do_not_depend_on_devices(make_problem, levels: list[float], num_devices: int) -> None:
    problem = tied_problem(make_problem, levels, num_examples=29, batch=8)
    options = DEVICE_OPTIONS | dict(background_size=13, num_hard=50)
    expected = jax.jit(functools.partial(one_step, axis_name=None, **options))(*problem)
    result = over_devices('vmap', num_devices, functools.partial(one_step, axis_name='batch', **options), problem)
    for form in FORMS:
        for name, value in expected.per_image[form].items():
            np.testing.assert_allclose(result.per_image[form][name], value, rtol=1e-6, atol=1e-6)
    for copy in result.graph:
        np.testing.assert_array_equal(copy, expected.graph[0])


def test_too_large_a_background_is_an_error_on_devices(make_problem) -> None:
    # The padded bank has 32 rows, so 30 fit into it; there are only 29 images.
    problem = make_problem(64, num_examples=29, batch=8)

    def run(*arrays: jax.Array) -> jax.Array:
        return invp_losses(*arrays, axis_name='batch', **DEFAULTS | dict(background_size=30)).instance

    with pytest.raises(ValueError, match='background_size'):
        over_devices('vmap', 4, run, problem)
