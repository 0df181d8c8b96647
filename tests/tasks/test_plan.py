"""The memory plan: its sums, what it refuses, and what it advises instead."""

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import phases
from invariance_propagation.errors import UserError
from invariance_propagation.tasks.plan import advice, memory, print_plan
from invariance_propagation.train.build import build
from invariance_propagation.train.run import Run, init_state
from tests.tiny_run import tiny_config


@pytest.fixture(scope="module", params=["pmap", "shard_map"])
def planned(request: pytest.FixtureRequest) -> tuple[Run, memory.Plan]:
    run = build(tiny_config(data__num_train=255, parallel=request.param))
    gc.collect()
    before = len(jax.live_arrays())
    found = memory.make_plan(run)
    assert len(jax.live_arrays()) == before, "a plan allocates nothing"
    return run, found


def test_parts_are_what_the_arrays_take(planned: tuple[Run, memory.Plan]) -> None:
    run, found = planned
    state = init_state(run)
    size = sum(x.nbytes for x in jax.tree.leaves((state.params, state.batch_stats)))
    assert found.device["parameters"] == size
    assert found.device["bank"] == 128 * 128 * 4  # half of 256 rows, one for padding
    assert found.device["graph"] == 255 * 4 * 4
    assert found.device["images"] == 255 * 8 * 8
    assert found.device["similarities"] == 2 * 32 * 128 * 4
    # Momentum is as large as the parameters, and there is a counter.
    params = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert found.device["optimizer"] == params + 4
    assert found.device["activations, gradients"] > params
    assert found.per_device == found.training == sum(found.device.values())
    assert found.machine == 2 * found.training + sum(found.host.values())
    whole = run.runner.fetch(state, run.spec, run.num_examples)
    copied = sum(x.nbytes for x in jax.tree.leaves(whole))
    assert found.host["copy for a checkpoint"] == copied


def test_a_host_copies_only_its_rows_where_nothing_is_gathered(
    planned: tuple[Run, memory.Plan],
) -> None:
    run, found = planned
    hosts = np.array([SimpleNamespace(process_index=i // 2) for i in range(4)])
    runner = run.runner._replace(mesh=SimpleNamespace(devices=hosts))
    several = run._replace(runner=runner)
    state = init_state(run)
    whole = found.host["copy for a checkpoint"]
    assert memory.copy_bytes(several, state) == whole
    options = run.options._replace(gather_checkpoints=False)
    own = memory.copy_bytes(several._replace(options=options), state)
    # The graph is not sharded here.
    assert own == whole - 255 * 128 * 4 // 2


def test_the_start_counts_where_it_takes_more() -> None:
    host = {"data set": 5, "copy for a checkpoint": 3}
    found = memory.Plan({"all": 10}, 30, 0, host, 2, on_cpu=True)
    assert (found.training, found.per_device, found.machine) == (10, 30, 65)
    assert found._replace(start=11).machine == 28
    # k-means, for example, is one device's.
    assert found._replace(begin=70)[1:3] == (30, 70)
    assert found._replace(begin=70).per_device == 70
    assert found._replace(begin=70).machine == 75
    assert found._replace(on_cpu=False).machine == 8


@pytest.fixture
def by_rule(monkeypatch: pytest.MonkeyPatch) -> Callable[[memory.Limits], None]:
    """Replaces the compiler by a formula: 1 kB, 10 bytes for each image of the batch, 1
    for each of the data set."""

    def make_plan(run: Run, start: int | None = None) -> memory.Plan:
        size = 1000 + 10 * run.options.batch_size + run.num_examples
        return memory.Plan({"all": size}, size // 2, 0, {"data set": 1}, 2, True)

    def set_limits(limits: memory.Limits) -> None:
        monkeypatch.setattr(memory, "memory_limits", lambda: limits)

    monkeypatch.setattr(memory, "make_plan", make_plan)
    return set_limits


@pytest.mark.parametrize(
    "tree, expected",
    [((), {}), ([jnp.zeros(2)], 8), ({"queue": jnp.zeros(3)}, 12)],
)
def test_memory_of_any_kind_is_counted(tree: Any, expected: Any) -> None:
    assert memory.memory_sizes(tree) == (expected and {"memory": expected})


def test_what_fits_is_printed(
    by_rule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    by_rule(memory.Limits(device=1576, machine=2 * 1576 + 1))
    print_plan(tiny_config())
    text = capsys.readouterr().out
    assert "compiling the training step to measure it: " in text
    assert "digits: 256 images, batches of 32 on 2 x cpu" in text
    assert "of 1.6 kB" in text and "of 3.2 kB" in text


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        (memory.Limits(1575, 10**9), "--config.train.batch_size to at most 30"),
        (memory.Limits(None, 2 * 1576), "--config.train.batch_size to at most 30"),
        (memory.Limits(1289, 10**9), "--config.train.batch_size to at most 2"),
        (memory.Limits(1275, 10**9), "take a smaller network"),
    ],
)
def test_what_does_not_fit_is_refused(
    by_rule, limits: memory.Limits, advice: str
) -> None:
    by_rule(limits)
    with pytest.raises(UserError, match=advice):
        print_plan(tiny_config())


def test_an_advised_batch_is_one_that_blocks_of_images_fit(by_rule) -> None:
    # 24 images would fit the memory, but not as 12 on each of 2 devices in blocks of 8.
    by_rule(memory.Limits(1500, 10**9))
    with pytest.raises(UserError, match="--config.train.batch_size to at most 16$"):
        print_plan(tiny_config(encoder__norm_group=8))


def test_the_most_images_are_named_where_no_batch_fits(by_rule) -> None:
    by_rule(memory.Limits(2000, 10**9))
    with pytest.raises(UserError, match="--config.data.num_train to at most 680"):
        print_plan(tiny_config(data__num_train=1300))


@pytest.mark.parametrize("seed", range(20))
def test_largest_fit_is_the_largest(seed: int) -> None:
    random = np.random.default_rng(seed)
    low, count, step = 3, int(random.integers(1, 60)), int(random.integers(1, 9))
    choices = low + step * np.arange(count + 1)
    sizes = np.cumsum(random.exponential(size=count + 1) ** 3)
    sizes = sizes / random.uniform(sizes[0] / 2, sizes[-1])
    table = dict(zip(choices.tolist(), sizes.tolist(), strict=True))
    expected = max((x for x in table if table[x] <= 1), default=None)
    high = int(choices[-1])
    found = advice.largest_fit(table.__getitem__, low, high, table[high], step)
    assert found == expected


def test_largest_fit_takes_few_trials() -> None:
    trials = []

    def size(value: int) -> float:
        trials.append(value)
        return (100 + 7 * value + 0.001 * value**2) / 5000

    assert size(8192) > 1
    trials.clear()
    found = advice.largest_fit(size, 8, 8192, size(8192), 8)
    assert size(found) <= 1 < size(found + 8)
    assert len(trials) < 16


def test_a_containers_limit_counts(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.max"
    path.write_text("max\n")
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (path, tmp_path / "none"))
    unlimited = memory.memory_limits().machine
    path.write_text("2000000\n")
    assert memory.memory_limits().machine < 2_000_000 < unlimited
