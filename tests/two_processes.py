"""One of two processes, which test_processes.py starts: python -m tests.two_processes."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from invariance_propagation import parallel, processes
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.parallel import REPLICATED, SHARDED
from tests import tiny

NUM_STEPS = 3


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
    processes.check_same({"digest": 1}, "data set")
    with pytest.raises(UserError, match="process 1 has another data set"):
        processes.check_same({"digest": own}, "data set")


def check_runner(mode: str, expected: Path) -> None:
    with pytest.raises(UserError, match="num_devices=3.*multiple of 2"):
        parallel.make_runner(mode, 3)
    # One device of each process.
    assert parallel.make_runner(mode, 2).mesh.local_mesh.size == 1
    runner = parallel.make_runner(mode)
    whole = np.arange(24, dtype=np.int32).reshape(8, 3)
    share = runner.put_share(whole[runner.share(8)])
    for placed in (share, runner.put(whole, SHARDED)):
        np.testing.assert_array_equal(runner.fetch(placed, SHARDED, 8), whole)
    copies = runner.local(runner.put(whole, REPLICATED))
    np.testing.assert_array_equal(copies, whole)
    state, metrics = tiny.run_mapped(mode, 4, NUM_STEPS)
    leaves = [*jax.tree.leaves(state), *(row["loss"] for row in metrics)]
    with np.load(expected) as arrays:
        for name, leaf in zip(arrays, leaves, strict=True):
            np.testing.assert_allclose(leaf, arrays[name], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    address, process_id, folder = sys.argv[1:]
    processes.join(
        coordinator=address, num_processes=2, process_id=int(process_id), timeout=120
    )
    parallel.split_cpu(2)
    check_talking()
    for mode in parallel.MODES:
        check_runner(mode, Path(folder) / f"{mode}.npz")
    print("all is well")
