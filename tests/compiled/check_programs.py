"""What the compilers of TPUs and GPUs make of the objective and of a whole step.

    make compile

Nothing runs: a topology describes devices that are not here. Limits are those of the
compiled programs that this repository was written with, and a little more.
"""

import os

# Before JAX starts: it is to look for no device.
os.environ["JAX_PLATFORMS"] = "cpu"

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import imagenet
from invariance_propagation import invp_losses, update_bank
from invariance_propagation.data import sources
from invariance_propagation.devices.runner import MODES, Runner
from invariance_propagation.devices.topologies import described_devices
from invariance_propagation.errors import UserError
from invariance_propagation.parallel import (
    AXIS,
    REPLICATED,
    SHARDED,
    psum,
    rows_per_device,
)
from invariance_propagation.tasks.plan.collectives import sent_by
from invariance_propagation.train.build import build
from invariance_propagation.train.run import lower

EXAMPLES, DIM, NEIGHBORS, HOPS = 1_281_167, 128, 4, 3
SLOTS = sum(NEIGHBORS ** (hop + 1) for hop in range(HOPS))
MB = 1e6


def devices_of(topology: str) -> list[jax.Device]:
    try:
        return described_devices(topology)
    except UserError as error:
        pytest.skip(str(error))


def rows_of(topology: str) -> int:
    devices = devices_of(topology)
    return rows_per_device(EXAMPLES, len(devices), devices[0].platform)


def objective(topology: str, mode: str, batch: int) -> jax.stages.Compiled:
    """Compiles losses, gradient, and the new bank rows and neighbours."""
    runner = Runner(Mesh(np.array(devices_of(topology)), (AXIS,)), mode)

    def step(bank: jax.Array, *rest: jax.Array) -> tuple:
        embeddings, indices, graph = rest

        def total(embeddings: jax.Array) -> tuple:
            losses = invp_losses(
                embeddings,
                indices,
                bank,
                graph,
                num_hops=HOPS,
                temperature=0.07,
                axis_name=AXIS,
            )
            return (losses.instance + losses.propagation).mean(), losses.neighbors

        (loss, neighbors), gradient = jax.value_and_grad(total, has_aux=True)(
            embeddings
        )
        bank = update_bank(bank, indices, embeddings, axis_name=AXIS)
        return bank, psum(loss, AXIS), gradient, neighbors

    mapped = runner.compile(
        step,
        (SHARDED, SHARDED, SHARDED, REPLICATED),
        (SHARDED, REPLICATED, SHARDED, SHARDED),
        donate=(0,),
    )
    shape = jax.ShapeDtypeStruct
    bank = runner.abstract(shape((EXAMPLES, DIM), jnp.float32), SHARDED)
    graph = runner.abstract(shape((EXAMPLES, NEIGHBORS), jnp.int32), REPLICATED)
    given = (shape((batch, DIM), jnp.float32), shape((batch,), jnp.int32))
    given = runner.abstract_batch(given, (SHARDED, SHARDED))
    return mapped.lower(bank, *given, graph).compile()


def large_copies(program: str, rows: int) -> list[str]:
    """Returns copies, transposes and reshapes of arrays with an axis of `rows`."""
    moved = re.compile(r"= (\S+) (?:copy|transpose|reshape|copy-start)\(")
    axis = re.compile(rf"[\[,]{rows}[\],]")
    return [x for x in moved.findall(program) if axis.search(x)]


# Megabytes that the objective may hold beside its arguments.
TEMPORARIES = {
    ("v5e-4", 128): 180,
    ("v5e-8", 256): 20,
    ("h100-4", 256): 700,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("topology", "batch"), TEMPORARIES)
def test_the_objective_copies_nothing_large(
    topology: str, batch: int, mode: str
) -> None:
    compiled = objective(topology, mode, batch)
    memory, program = compiled.memory_analysis(), compiled.as_text()
    rows = rows_of(topology)
    print(topology, batch, mode, memory.temp_size_in_bytes / MB, sent_by(program))
    assert not large_copies(program, rows)
    assert memory.temp_size_in_bytes <= TEMPORARIES[topology, batch] * MB
    # The bank is updated in place.
    assert memory.alias_size_in_bytes >= rows * DIM * 4
    # Embeddings, own sums of the slots and candidates travel; never the bank or a list of
    # similarities.
    assert sum(sent_by(program).values()) <= 40 * batch * max(SLOTS, DIM)


def imagenet_step(topology: str, **changes: Any) -> Callable[[], jax.stages.Compiled]:
    config = imagenet.get_config()
    config.topology = topology
    config.update_from_flattened_dict(changes)
    dataset = sources.described("imagenet", EXAMPLES, size=224, channels=3)
    run = build(config, dataset=dataset, described=devices_of(topology))
    return lower(run).step.compile


# Megabytes of all that the step of configs/imagenet.py holds on a device.
WHOLE = {"v5e-4": 2200, "h100-4": 2300}


@pytest.mark.parametrize("topology", WHOLE)
def test_the_step_of_imagenet_fits_and_updates_its_state_in_place(
    topology: str,
) -> None:
    memory = imagenet_step(topology)().memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    print(topology, held / MB)
    assert held <= WHOLE[topology] * MB
    rows = rows_of(topology)
    assert memory.alias_size_in_bytes >= rows * DIM * 4
