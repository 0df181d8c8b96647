"""Plans for devices that are not here; CPU devices stand for them."""

import jax
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

    def make_plan(run) -> memory.Plan:
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
