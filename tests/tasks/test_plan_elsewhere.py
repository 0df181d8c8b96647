"""Plans for devices that are not here; CPU devices stand for them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from invariance_propagation.data import sources
from invariance_propagation.devices.topologies import CHIPS, Topology
from invariance_propagation.errors import UserError
from invariance_propagation.tasks.plan import advice, memory, print_plan, task, work
from invariance_propagation.train.build import build
from tests.tiny_run import tiny_config


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS["v5e"]._replace(memory=10**9)
    monkeypatch.setattr(task, "TOPOLOGIES", {"v5e-4": Topology(chip, "tpu", {})})
    monkeypatch.setattr(task, "described_devices", lambda name: jax.devices()[:4])
    monkeypatch.setattr(task, "largest_batch", lambda *given: 64)


def test_a_plan_without_the_data_set(elsewhere, capsys: pytest.CaptureFixture) -> None:
    config = tiny_config(
        topology="v5e-4", num_devices=None, data__num_train=0, data__num_examples=50_000
    )
    plan = print_plan(config)
    text = capsys.readouterr().out
    assert "digits: 50,000 images, batches of 32 on 4 x" in text
    assert "of 1.0 GB free" in text and "images a second" in text
    assert "sends, all-reduce" in text and "not measured" in text
    assert "largest batch that fits: about 64" in text
    assert plan.device["images"] == 50_000 * 8 * 8
    assert plan.work.flops > 0


def test_a_set_that_is_not_here_is_asked_for(elsewhere, tmp_path) -> None:
    config = tiny_config(topology="v5e-4")
    config.data.update(name="imagenet", folder=str(tmp_path))
    with pytest.raises(UserError, match="imagenet is not here: .*data.num_examples=N"):
        print_plan(config)


def test_nothing_runs_on_a_topology() -> None:
    with pytest.raises(UserError, match="topology='v5e-4' is for --config.task=plan"):
        build(tiny_config(topology="v5e-4"))
    with pytest.raises(UserError, match="num_examples=9 is for --config.task=plan"):
        build(tiny_config(data__num_examples=9))


@pytest.mark.parametrize(("size", "streamed"), [(28, False), (224, True)])
def test_large_images_are_streamed(size: int, streamed: bool) -> None:
    images = sources.described("set", 1000, size=size, channels=3).train.images
    assert images.shape == (1000, size, size, 3)
    assert images.nbytes == (0 if streamed else 1000 * size * size * 3)
    with pytest.raises(UserError, match="num_examples=-1: set it"):
        sources.described("set", -1, size=8, channels=1)


def test_the_slowest_part_bounds_a_step() -> None:
    slow = work.Work(197e12, 819e9 / 2, {"all-reduce": int(200e9 / 4)})
    assert work.shortest_step(slow, CHIPS["v5e"]) == 1.0


def test_a_program_that_the_compiler_refuses_is_advice(
    elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: total memory required for HLO temporaries (23.88G) "
                "exceeds available HBM (15.75G)"
            )

    with pytest.raises(memory.TooLargeError) as caught:
        memory.compile_program(Refused())
    assert caught.value.share == pytest.approx(1.516, abs=1e-3)

    def make_plan(run, start: int | None = None) -> memory.Plan:
        raise memory.TooLargeError(run.options.batch_size / 20)

    monkeypatch.setattr(memory, "make_plan", make_plan)
    with pytest.raises(UserError, match="160% of the .*batch_size to at most 20$"):
        print_plan(tiny_config(topology="v5e-4", num_devices=None))


@pytest.mark.parametrize("most", [40, 100, 250])
def test_the_largest_batch_is_found_by_few_trials(most: int) -> None:
    run, trials = build(tiny_config()), []

    def share_with(name: str, value: int) -> float:
        trials.append(value)
        return value / most

    found = advice.largest_batch(tiny_config(), run, 32 / most, share_with)
    assert 0.9 * most <= found <= most
    assert len(trials) <= 9


def test_trials_of_a_batch_compile_only_the_step(
    elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_program(program: jax.stages.Lowered) -> jax.stages.Compiled:
        compiled.append(program)
        return program.compile()

    def largest_batch(config, run, share: float, share_with) -> int:
        assert len(compiled) == 3
        assert 0 < share < share_with("train.batch_size", 64) < 1
        assert len(compiled) == 4
        share_with("data.num_examples", 2000)
        assert len(compiled) == 7
        return 64

    monkeypatch.setattr(memory, "compile_program", compile_program)
    monkeypatch.setattr(task, "largest_batch", largest_batch)
    print_plan(
        tiny_config(
            topology="v5e-4",
            num_devices=None,
            data__num_train=0,
            data__num_examples=1000,
        )
    )
    assert len(compiled) == 7


def xla_flops(fn, *shapes: tuple[int, ...]) -> tuple[int, float]:
    arrays = [jnp.zeros(shape) for shape in shapes]
    lowered = jax.jit(fn).lower(*arrays)
    traced = jax.make_jaxpr(jax.jit(fn))(*arrays)
    return work.flops_of(traced.jaxpr), lowered.cost_analysis()["flops"]


def test_products_are_counted_as_xla_does() -> None:
    found, expected = xla_flops(
        lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (3, 4, 5), (3, 5, 6)
    )
    assert found == expected == 2 * 3 * 4 * 5 * 6


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_and_their_gradients_are_counted_as_xla_does(
    groups: int, strides: int, padding: str
) -> None:
    def loss(images: jax.Array, kernel: jax.Array) -> jax.Array:
        outputs = jax.lax.conv_general_dilated(
            images,
            kernel,
            (strides, 1),
            padding,
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.sum(outputs**2)

    shapes = (8, 21, 18, 16), (3, 3, 16 // groups, 32)
    for fn in (loss, jax.grad(loss, argnums=(0, 1))):
        found, expected = xla_flops(fn, *shapes)
        # XLA counts what is done to each output as well.
        assert found <= expected < 1.02 * found


def test_loops_count_as_often_as_they_run_and_branches_once() -> None:
    def product(x: jax.Array) -> jax.Array:
        return x @ x

    once = 2 * 8**3
    cases = {
        once: product,
        5 * once: lambda x: jax.lax.fori_loop(0, 5, lambda _, y: product(y), x),
        3 * once: lambda x: jax.lax.map(product, jnp.stack([x, x, x])),
        2 * once: lambda x: jax.lax.cond(
            x[0, 0] > 0, lambda y: product(product(y)), product, x
        ),
    }
    for expected, fn in cases.items():
        found = work.flops_of(jax.make_jaxpr(jax.jit(fn))(jnp.ones((8, 8))).jaxpr)
        assert found == expected


def test_work_inside_of_a_mapped_function_is_that_of_one_device() -> None:
    mapped = jax.pmap(lambda x: x @ x.T, devices=jax.devices()[:4])
    traced = jax.make_jaxpr(mapped)(jnp.ones((4, 8, 16)))
    assert work.flops_of(traced.jaxpr) == 2 * 8 * 8 * 16


class Uncounted(NamedTuple):
    """Stands for a program of a GPU, whose compiler counts nothing."""

    compiled: jax.stages.Compiled

    def cost_analysis(self) -> None:
        return None

    def memory_analysis(self) -> object:
        return self.compiled.memory_analysis()

    def as_text(self) -> str:
        return self.compiled.as_text()


def test_a_gpu_counts_what_is_held() -> None:
    lowered = jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64)))
    traced = jax.make_jaxpr(lambda x: x @ x)(jnp.ones((64, 64)))
    found = work.work_of(traced, Uncounted(lowered.compile()))
    assert found.flops == 2 * 64**3
    assert found.bytes_read >= 2 * 64 * 64 * 4
    assert work.shortest_step(found, CHIPS["h100"]) > 0
