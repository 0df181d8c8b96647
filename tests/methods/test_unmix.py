"""Un-Mix: mixtures against a slow oracle, three losses, and a memory that sees none of it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import digits
from invariance_propagation import devices
from invariance_propagation.errors import UserError
from invariance_propagation.methods import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    make_from,
)
from invariance_propagation.methods.unmix import (
    Draw,
    Options,
    draw_mixture,
    own_share,
)
from invariance_propagation.models import Encoder, Outputs
from invariance_propagation.models.norm import BatchNorm
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate
from tests import tiny
from tests.reference import mixtures
from tests.reference import objective as oracle

N, B, DIM, SIZE = 40, 8, 8, 8
INVP = {"name": "invariance_propagation", **tiny.METHOD, "background_size": 12}
# `epoch` below is one in which propagation is on.
LOSS = {
    name: INVP[name]
    for name in (
        "num_hops",
        "num_hard",
        "background_size",
        "temperature",
        "form",
        "positives",
    )
}
GROUPS = {"large": (2, 8, 8), "small": (3, 6, 5)}  # views, height, width


def wrap(
    inner: Mapping[str, Any] = INVP, *, axis_name: str | None = None, **options: Any
) -> Method:
    problem = Problem(
        encoder=Encoder(tiny.TinyBackbone(None), "linear", dim=DIM),
        num_examples=N,
        batch_size=B,
        steps_per_epoch=N // B,
        axis_name=axis_name,
        categories={"domain": 2},
    )
    defaults = {"global_probability": 0.5, "alpha": 1.0}
    return make_from(
        {"name": "unmix", **defaults, **options, "inner": inner}, problem, key="method"
    )


def moment(step: int = 0) -> Moment:
    key = jax.random.fold_in(jax.random.key(7), step)
    return Moment(jnp.int32(step), jnp.int32(3), key)


def make_batch(groups: Mapping[str, tuple] = {"view": (1, SIZE, SIZE)}) -> Batch:
    random = np.random.default_rng(3)
    return Batch(
        indices=jnp.asarray(random.permutation(N)[:B].astype(np.int32)),
        views={
            name: jnp.asarray(random.normal(size=(count, B, *size, 1)), jnp.float32)
            for name, (count, *size) in groups.items()
        },
        columns={"domain": jnp.asarray(random.integers(0, 2, B), jnp.int32)},
        keys=jax.random.split(jax.random.key(1), B),
    )


def data(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


# The mixture.


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


def draw_like(key: jax.Array, options: Options) -> Draw:
    return jax.tree.map(np.asarray, draw_mixture(key, options))


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


# Loss and memory.


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


def problem_of(method: Method) -> Problem:
    return Problem(method.encoder, N, B, N // B, None)


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
    """BatchNorm over a batch, of which the running mean tells what it has seen."""

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


# Options, messages, notes.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"global_probability": 1.5}, r"^method\.global_probability=1\.5: set it from"),
        ({"global_probability": -0.1}, r"^method\.global_probability=-0\.1"),
        ({"alpha": 0.0}, r"^method\.alpha=0\.0: set it above 0"),
        ({"alpha": float("nan")}, r"^method\.alpha=nan"),
        ({"beta": 1.0}, r"unknown config key method\.beta"),
        ({"inner": {"name": "moco"}}, r"^method\.inner\.name='moco': choose one of"),
        ({"inner": {}}, r"^method\.inner\.name='': choose one of"),
        ({"inner": INVP | {"alpha": 1}}, r"unknown config key method\.inner\.alpha"),
        (
            {"inner": INVP | {"temperature": 0}},
            r"^method\.inner\.temperature=0: set it above 0",
        ),
        (
            {"inner": INVP | {"start": "auto", "ramp": "gaussian"}},
            r"^method\.inner\.ramp='gaussian' leads up to method\.inner\.start_epoch: "
            r"set method\.inner\.start='epoch'",
        ),
        (
            {"inner": INVP | {"background_size": 99}},
            r"^method\.inner\.background_size=99, but",
        ),
    ],
)
def test_a_mistake_is_named_by_its_key(changes: dict, words: str) -> None:
    inner = changes.pop("inner", INVP)
    with pytest.raises(UserError, match=words):
        wrap(inner, **changes)


def test_a_wrapper_in_a_wrapper_names_its_keys_too() -> None:
    twice = {"name": "unmix", "global_probability": 0.5, "alpha": -1.0, "inner": INVP}
    with pytest.raises(UserError, match=r"^method\.inner\.alpha=-1"):
        wrap(twice)
    twice |= {"alpha": 1.0, "inner": INVP | {"temperature": -1}}
    with pytest.raises(UserError, match=r"^method\.inner\.inner\.temperature=-1"):
        wrap(twice)


def test_sentences_name_the_keys_of_the_inner_section() -> None:
    notes = wrap(INVP | {"start_epoch": 9}).notes
    (warning,) = notes.warnings(5)
    assert "(method.inner.start_epoch)" in warning
    assert "lower method.inner.start_epoch, or raise train.epochs" in warning
    before = {"epoch": 0, "neighbor_overlap": 0.0, "propagation_weight": 0.0}
    row = {"epoch": 1, "propagation_weight": 1.0}
    _, warning = notes.notices(row, before)
    assert "--config.method.inner.start_epoch above 1" in warning
    assert "--config.method.inner.start=auto" in warning
    alone = make_from(INVP | {"start_epoch": 9}, problem_of(wrap()), key="method")
    assert "(method.start_epoch)" in alone.notes.warnings(5)[0]


def test_the_notes_are_those_of_the_inner_method_and_more() -> None:
    method = wrap()
    inner = make_from(INVP, problem_of(method), key="method").notes
    notes = method.notes
    assert (
        notes.about == f"mixtures of images for invariance_propagation; {inner.about}"
    )
    assert notes.panels[:-1] == inner.panels
    assert set(notes.panels[-1].series) == {"clean", "mixed"}
    row = {"instance": 1.0, "propagation": 2.0, "propagation_weight": 0.5, "mixed": 4.5}
    assert notes.brief(row) == [*inner.brief(row), "mixtures 4.500"]
    rows = [{"epoch": 0, "propagation_weight": 0.0}]
    for weight, text in ((0, "off"), (1, "not started")):
        options = {"name": "unmix", "inner": INVP | {"propagation_weight": weight}}
        assert notes.outcome(rows, {}, options) == {"propagation": text}


# A run.


def test_a_config_wraps_any_method() -> None:
    config = digits.get_config("unmix+invariance_propagation")
    assert config == digits.get_config("unmix")
    assert config.method.inner.num_hops == 3
    assert config.method.inner.temperature == 0.3  # what digits.py says of it
    assert config.optimizer.learning_rate == 0.12
    config = digits.get_config("unmix+tests.toys:clustering")
    assert config.method.inner.to_dict() == {"name": "tests.toys:clustering"}


def test_it_learns_digits(tmp_path: Path, optimized: None) -> None:
    """kNN rises ten points over the untrained encoder, and both losses fall."""
    config = digits.get_config("unmix")
    config.num_devices = 2
    config.data.num_train = 640
    config.encoder.width = 8
    config.method.inner.update(background_size=256, start_epoch=6)
    config.train.update(epochs=20, evaluate_every=0)
    summary = train_and_evaluate(config, str(tmp_path))
    assert summary["knn_trained"] >= summary["knn_untrained"] + 0.10
    # In epoch 0 the bank is random, and from epoch 6 on there is another term.
    rows = {x["epoch"]: x for x in read_rows(tmp_path) if "clean" in x}
    for name in ("clean", "mixed"):
        assert rows[5][name] < 0.8 * rows[1][name]
