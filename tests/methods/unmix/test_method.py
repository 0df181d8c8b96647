"""Three losses against the oracles, and a memory that sees no mixture."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invariance_propagation import devices
from invariance_propagation.methods import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    make_from,
)
from invariance_propagation.methods.unmix.options import Options
from invariance_propagation.models import Outputs
from invariance_propagation.models.norm import BatchNorm
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests.methods.unmix.made import (
    DIM,
    GROUPS,
    INVP,
    LOSS,
    SIZE,
    B,
    N,
    data,
    draw_like,
    make_batch,
    moment,
    problem_of,
    wrap,
)
from tests.reference import mixtures
from tests.reference import objective as oracle


def test_partners_are_the_whole_batch_in_reverse() -> None:
    batch = make_batch(GROUPS)
    clean, mixed, partners, _ = wrap().prepare(batch, moment()).extra
    for found, right in ((clean, batch), (partners, batch)):
        order = slice(None, None, 1 if found is clean else -1)
        np.testing.assert_array_equal(found.indices, right.indices[order])
        np.testing.assert_array_equal(
            found.columns["domain"], right.columns["domain"][order]
        )
        for name, views in right.views.items():
            np.testing.assert_array_equal(found.views[name], views[:, order])
    np.testing.assert_array_equal(mixed.indices, batch.indices)
    # Random draws for mixtures differ from those for clean images, and go with the image.
    np.testing.assert_array_equal(data(clean.keys), data(batch.keys))
    np.testing.assert_array_equal(data(partners.keys), data(mixed.keys)[::-1])
    assert not (data(mixed.keys) == data(clean.keys)).all(axis=1).any()


def test_with_an_odd_batch_the_middle_is_mixed_with_itself() -> None:
    batch = jax.tree.map(lambda x: x[:5], make_batch()._replace(views={}))
    batch = batch._replace(views={"view": make_batch().views["view"][:, :5]})
    prepared = wrap().prepare(batch, moment())
    np.testing.assert_allclose(
        prepared.views["mixed view"][:, 2], batch.views["view"][:, 2], atol=1e-6
    )


class Step(NamedTuple):
    loss: Any
    metrics: Any
    gradient: Any
    memory: Any


def project(views: jax.Array, weights: jax.Array) -> Outputs:
    """An encoder of one matrix."""
    pixels = views[0].reshape(views.shape[1], -1)
    return Outputs(pixels, pixels @ weights)


def take(
    batch: Batch, memory: Any, weights: jax.Array, moment: Moment, *, method: Method
) -> Step:
    """Does what a training step does with this method, with a matrix as the network."""
    batch = method.prepare(batch, moment)

    def mean_loss(weights: jax.Array) -> tuple:
        def encoder(views: jax.Array, *, train: bool) -> Outputs:
            return project(views[None], weights)

        outputs = method.forward(encoder, batch, train=True)
        loss, aux = method.loss(outputs, batch, memory, moment)
        return loss.mean(), (loss, aux, outputs)

    gradient, (loss, aux, outputs) = jax.grad(mean_loss, has_aux=True)(weights)
    after = method.update(memory, outputs, batch, aux, {}, moment)
    return Step(loss, aux.metrics, gradient[None], after)


def setting(method: Method) -> tuple[Any, np.ndarray]:
    """A memory with some neighbours, and a matrix."""
    random = np.random.default_rng(11)
    memory = jax.device_get(method.init_memory(jax.random.key(2), {}))
    graph = np.array([random.permutation(N)[: memory.graph.shape[1]] for _ in range(N)])
    bank = random.normal(size=memory.bank.shape).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    weights = random.normal(size=(SIZE * SIZE, DIM)).astype(np.float32)
    return memory._replace(bank=bank, graph=graph.astype(np.int32)), weights


def expected(batch: Batch, memory: Any, weights: np.ndarray, step: int) -> dict:
    """Loss, gradient, bank and graph by the oracles alone, in float64."""
    draw = draw_like(moment(step).key, Options(0.5, 1.0))
    view, indices = np.asarray(batch.views["view"][0]), np.asarray(batch.indices)
    mixed, share = mixtures.mix(
        view,
        is_global=bool(draw.is_global),
        share=float(draw.share),
        centre=tuple(draw.centre),
    )
    terms = ((1, view, indices), (share, mixed, indices))
    terms += ((1 - share, mixed, indices[::-1]),)
    total, gradient = np.zeros(B), np.zeros(weights.shape)
    for weight, images, ids in terms:
        pixels = images.reshape(B, -1).astype(np.float64)
        found = oracle.losses(pixels @ weights, ids, memory.bank, memory.graph, **LOSS)
        strength = INVP["propagation_weight"]
        total += weight * (found.instance + strength * found.propagation)
        slope = found.instance_gradient + strength * found.propagation_gradient
        gradient += weight * pixels.T @ slope / B
    clean = view.reshape(B, -1).astype(np.float64) @ weights
    neighbors = oracle.losses(
        clean, indices, memory.bank, memory.graph, **LOSS
    ).neighbors
    momentum = INVP["bank_momentum"]
    return {
        "loss": total,
        "gradient": gradient,
        "bank": oracle.update_bank(memory.bank, indices, clean, momentum=momentum),
        "graph": oracle.update_graph(memory.graph, indices, neighbors),
    }


def check(found: Step, right: dict) -> None:
    np.testing.assert_allclose(found.loss, right["loss"], rtol=2e-5)
    scale = abs(right["gradient"]).max()
    gradient = np.asarray(found.gradient).mean(axis=0)  # over devices
    np.testing.assert_allclose(gradient, right["gradient"], atol=2e-5 * scale)
    np.testing.assert_allclose(found.memory.bank, right["bank"], atol=1e-5)
    np.testing.assert_array_equal(found.memory.graph, right["graph"])


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_loss_gradient_and_memory_are_the_oracles(step: int) -> None:
    method, batch = wrap(), make_batch()
    memory, weights = setting(method)
    found = jax.jit(partial(take, method=method))(batch, memory, weights, moment(step))
    check(found, expected(batch, memory, weights, step))
    parts = found.metrics["clean"] + found.metrics["mixed"]
    np.testing.assert_allclose(found.loss.mean(), parts, rtol=1e-6)
    # The rest of what is logged is about clean images.
    instance = found.metrics["instance"]
    strength = INVP["propagation_weight"] * found.metrics["propagation"]
    np.testing.assert_allclose(found.metrics["clean"], instance + strength, rtol=1e-6)


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_any_number_of_devices_does_the_same(mode: str, count: int) -> None:
    runner = devices.make_runner(mode, count)
    method = wrap(axis_name=AXIS)
    alone, batch = wrap(), make_batch()
    memory, weights = setting(alone)
    views = batch.views["view"][0]

    def on_device(indices, views, keys, columns, memory, weights, moment) -> Step:
        keys = jax.random.wrap_key_data(keys)
        batch = Batch(indices, {"view": views[None]}, columns, keys)
        moment = moment._replace(key=jax.random.wrap_key_data(moment.key))
        return take(batch, memory, weights, moment, method=method)

    spec = Step(SHARDED, REPLICATED, SHARDED, method.memory_spec)
    given = (SHARDED, SHARDED, SHARDED, SHARDED, method.memory_spec)
    specs = (*given, REPLICATED, REPLICATED)
    step = runner.compile(on_device, specs, spec)
    for number in (0, 1):
        now = moment(number)
        arguments = (
            np.asarray(batch.indices),
            np.asarray(views),
            data(batch.keys),
            jax.device_get(batch.columns),
            memory,
            weights,
            jax.device_get(now._replace(key=data(now.key))),
        )
        placed = [runner.put(x, s) for x, s in zip(arguments, specs, strict=True)]
        found = step(*placed)
        found = Step(
            runner.fetch(found.loss, SHARDED, B),
            None,
            runner.fetch(found.gradient, SHARDED, count),
            runner.fetch(found.memory, method.memory_spec, N),
        )
        check(found, expected(batch, memory, weights, number))


def test_the_memory_never_sees_a_mixture() -> None:
    """Bank, graph and what `match`, `begin` and `refresh` do are the inner method's."""
    batch = make_batch()
    other = batch._replace(views={"view": batch.views["view"].at[:, -1].add(1.0)})
    method = wrap()
    memory, weights = setting(method)
    step = jax.jit(partial(take, method=method))
    one, two = (step(x, memory, weights, moment(1)).memory for x in (batch, other))
    # The last image is mixed into the first; only its own row may change.
    changed = np.flatnonzero((one.bank != two.bank).any(axis=1))
    np.testing.assert_array_equal(changed, [batch.indices[-1]])
    inner = make_from(INVP, problem_of(method), key="method")
    for name in ("match", "refresh_every", "memory_spec", "requires", "begin"):
        assert getattr(method, name) == getattr(inner, name), name
    assert method.notes.rows == "bank" and method.notes.neighbors == "graph"


# Where the inner method reads more of a batch than its indices.


def recorder(*, problem: Problem) -> Method:
    """Keeps what its functions are called with, and draws from the keys in `prepare`."""

    def prepare(batch: Batch, moment: Moment) -> Batch:
        drawn = jax.vmap(jax.random.uniform)(batch.keys)
        return batch._replace(extra=drawn)

    def forward(encoder: Any, batch: Batch, *, train: bool) -> Batch:
        return batch

    def loss(outputs: Batch, batch: Batch, memory: Any, moment: Moment) -> tuple:
        CALLS.append((outputs, batch))
        return batch.extra, Aux({}, batch)

    def update(memory: Any, outputs: Batch, batch: Batch, aux: Any, *rest: Any) -> Any:
        CALLS.append((outputs, batch))
        return aux.found

    return Method(problem.encoder, loss, forward, update=update, prepare=prepare)


CALLS: list[tuple[Batch, Batch]] = []


def test_all_that_belongs_to_an_image_changes_places_with_it() -> None:
    CALLS.clear()
    method, batch = wrap({"name": f"{__name__}:recorder"}), make_batch(GROUPS)
    prepared = method.prepare(batch, moment())
    outputs = method.forward(None, prepared, train=True)
    loss, aux = method.loss(outputs, prepared, (), moment())
    found = method.update((), outputs, prepared, aux, {}, moment())
    (clean, c), (mixed, own), (again, partners), (updated, u) = CALLS
    drawn = jax.vmap(jax.random.uniform)(batch.keys)
    for seen in (clean, c, updated, u, found):
        assert seen.views.keys() == batch.views.keys()
        for name in batch.views:
            np.testing.assert_array_equal(seen.views[name], batch.views[name])
        np.testing.assert_array_equal(data(seen.keys), data(batch.keys))
        np.testing.assert_array_equal(seen.extra, drawn)
    assert mixed is again
    for name in batch.views:
        np.testing.assert_array_equal(
            mixed.views[name], prepared.views[f"mixed {name}"]
        )
        # The loss compares with clean views, such as those of a key encoder.
        np.testing.assert_array_equal(own.views[name], batch.views[name])
        np.testing.assert_array_equal(partners.views[name], batch.views[name][:, ::-1])
    np.testing.assert_array_equal(own.extra, drawn)
    np.testing.assert_array_equal(partners.extra, drawn[::-1])
    np.testing.assert_array_equal(own.indices, partners.indices[::-1])
    np.testing.assert_array_equal(data(own.keys), data(mixed.keys))
    share = prepared.extra.share
    wanted = drawn + share * drawn + (1 - share) * drawn[::-1]
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)


def test_dropout_draws_anew_for_mixtures() -> None:
    inner = {
        "name": "tests.toys:clustering",
        "num_clusters": 3,
        "every": 2,
        "dim": 64,
    }
    method = wrap(inner)
    batch = make_batch()
    # A mixture of the same image on both sides is the image.
    same = jnp.broadcast_to(batch.views["view"][:, :1], batch.views["view"].shape)
    batch = method.prepare(batch._replace(views={"view": same}), moment())
    key = jax.random.key(0)
    variables = method.encoder.init(key, batch, train=False, method=method.forward)
    seen = method.encoder.apply(variables, batch, train=False, method=method.forward)
    np.testing.assert_allclose(seen.clean.logits, seen.mixed.logits, atol=1e-5)
    seen, _ = method.encoder.apply(
        variables, batch, train=True, method=method.forward, mutable=["batch_stats"]
    )
    assert abs(seen.clean.logits - seen.mixed.logits).max(axis=1).min() > 1e-3


class Normed(nn.Module):
    """A BatchNorm over the batch. Its running mean tells what it has seen."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        pixels = images.reshape(len(images), -1)
        return Outputs(pixels, BatchNorm(not train, axis_name=None)(pixels, None))


def test_batch_norm_sees_mixtures_by_themselves() -> None:
    method, module = wrap(), Normed()
    batch = method.prepare(make_batch(), moment(1))
    variables = module.init(jax.random.key(0), batch.views["view"][0], train=False)
    seen, after = module.apply(
        variables, batch, train=True, method=method.forward, mutable=["batch_stats"]
    )
    wanted = []
    for name in ("view", "mixed view"):
        outputs, changed = module.apply(
            variables, batch.views[name][0], train=True, mutable=["batch_stats"]
        )
        variables = {**variables, **changed}
        wanted.append(outputs.embedding)
    np.testing.assert_array_equal(seen.clean.embedding, wanted[0])
    np.testing.assert_array_equal(seen.mixed.embedding, wanted[1])
    jax.tree.map(
        np.testing.assert_array_equal,
        after["batch_stats"],
        variables["batch_stats"],
    )
