"""Runs one of two processes that test_processes.py starts: python -m tests.two_processes."""

import sys
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from invariance_propagation import devices
from invariance_propagation.data.load.feed import Facts, Threads, ViewGroup, from_host
from invariance_propagation.data.load.making import views_on_host
from invariance_propagation.devices import peers, processes
from invariance_propagation.errors import Stopped, TrainingError, UserError
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests import tiny

CHANCES = {
    "size": 8,
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (0.75, 1.33),
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.0, 0.0),
    "jitter_probability": 0.8,
    "grayscale": 0.0,
    "blur": 0.0,
    "mean": (0.5,),
    "std": (0.25,),
}


def check_talking() -> None:
    own = jax.process_index()
    # Longer than a piece, and not of a whole number of them.
    processes.PIECE_BYTES = 4096
    rows = 1000.0 * own + np.arange(3 * 700, dtype=np.float32).reshape(700, 3)
    whole = processes.gather(rows)
    np.testing.assert_array_equal(whole[700 * own :][:700], rows)
    np.testing.assert_array_equal(whole[:700] + 1000, whole[700:])
    told = processes.from_first(lambda: {"own": own, "rows": -0.0 * rows})
    assert told["own"] == 0 and np.signbit(told["rows"]).all()

    def refuse(culprit: int) -> int:
        if own == culprit:
            raise UserError(f"no data here, at {culprit}")
        return own

    assert processes.everywhere(refuse, 2) == own
    for culprit in (0, 1):
        with pytest.raises(UserError, match=f"no data here, at {culprit}"):
            processes.everywhere(refuse, culprit)
    with pytest.raises(UserError, match="no data here"):
        processes.from_first(refuse, 0)
    with pytest.raises(ZeroDivisionError if own == 0 else TrainingError, match="zero"):
        processes.from_first(lambda: 1 // own)
    # What cannot be told without running code ends both.
    with pytest.raises(TypeError if own == 0 else TrainingError, match="be packed"):
        processes.from_first(lambda: print)
    for raised in (TrainingError("it broke"), Stopped("stopped at 3", 143)):
        with pytest.raises(type(raised), match=str(raised)) as caught:
            processes.from_first(fail, raised)
        assert vars(caught.value) == vars(raised)
    # One is longer than what others send at once.
    for value in ([own, None], {"rows": np.arange(5000 * own)}):
        mine = processes.from_each(value)[own]
        assert jax.tree.all(jax.tree.map(np.array_equal, mine, value))
    assert processes.from_each("a" * own) == ["", "a"]
    processes.check_same({"digest": 1}, "data set")
    with pytest.raises(UserError, match="process 1 has another data set"):
        processes.check_same({"digest": own}, "data set")


def fail(error: Exception) -> None:
    raise error


def check_runner(mode: str) -> None:
    with pytest.raises(UserError, match="num_devices=3.*multiple of 2"):
        devices.make_runner(mode, 3)
    # One device of each process.
    assert devices.make_runner(mode, 2).mesh.local_mesh.size == 1
    runner = devices.make_runner(mode)
    whole = np.arange(24, dtype=np.int32).reshape(8, 3)
    share = runner.put_share(whole[runner.share(8)])
    for placed in (share, runner.put(whole, SHARDED)):
        np.testing.assert_array_equal(runner.fetch(placed, SHARDED, 8), whole)
    # 13 rows on four devices: four each, and a last one with a single row.
    rows = np.arange(26, dtype=np.float32).reshape(13, 2)
    mine = runner.own_rows(13)
    assert (mine.start, mine.stop) == ((0, 8), (8, 13))[jax.process_index()]
    given, specs = (rows[0], rows[mine]), (REPLICATED, SHARDED)
    placed = runner.put_own(given, specs, 13)
    np.testing.assert_array_equal(runner.fetch(placed, specs, 13)[1], rows)
    for found, expected in zip(runner.fetch_own(placed, specs, 13), given, strict=True):
        np.testing.assert_array_equal(found, expected)
    copies = runner.local(runner.put(whole, REPLICATED))
    np.testing.assert_array_equal(copies, whole)
    create = partial(jax.random.normal, shape=(9, 3))
    made = runner.create(create, SHARDED, jax.random.key(0))
    expected = create(jax.random.key(0))
    np.testing.assert_array_equal(runner.fetch(made, SHARDED, 9), expected)


def check_norm(runner: devices.Runner) -> None:
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    images += np.arange(16, dtype=np.float32)[:, None, None, None]
    whole = tiny.TinyBackbone(None)
    variables = whole.init(jax.random.key(0), images, train=False)

    def apply(module: tiny.TinyBackbone, variables: Any, images: jax.Array) -> Any:
        return module.apply(variables, images, train=True, mutable=["batch_stats"])

    over_all = partial(apply, tiny.TinyBackbone(AXIS))
    specs = (SHARDED, REPLICATED)
    mapped = runner.compile(over_all, (REPLICATED, SHARDED), specs)
    given = runner.put((variables, images), (REPLICATED, SHARDED))
    found = runner.fetch(mapped(*given), specs, len(images))
    for part, expected in zip(
        jax.tree.leaves(found),
        jax.tree.leaves(apply(whole, variables, images)),
        strict=True,
    ):
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-5)


def check_host_views(runner: devices.Runner) -> None:
    given = from_host(
        tiny.pictures(),
        {"view": ViewGroup(1, CHANCES)},
        divide=views_on_host,
        runner=runner,
        facts=Facts(0, tiny.BATCH_SIZE, tiny.STEPS_PER_EPOCH),
        threads=Threads(
            num_threads=1,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
    )
    feed = given.feed(start=1, stop=2)
    specs = (SHARDED, SHARDED, SHARDED)
    indices, views, _ = runner.fetch(next(feed), specs, tiny.BATCH_SIZE)
    feed.close()
    np.testing.assert_array_equal(indices, tiny.batches(2)[1])
    expected = given.read(0, indices)
    np.testing.assert_array_equal(views["view"], expected["view"])


if __name__ == "__main__":
    address, process_id = sys.argv[1:]
    peers.BEAT_EVERY = 0.001  # so that a beat is under way when the program ends
    processes.join(
        coordinator=address, num_processes=2, process_id=int(process_id), timeout=120
    )
    devices.split_cpu(2)
    check_talking()
    for mode in devices.MODES:
        check_runner(mode)
        check_norm(devices.make_runner(mode))
        check_host_views(devices.make_runner(mode))
    print("all is well")
