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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from configs import imagenet
from invariance_propagation import invp_losses, update_bank, update_graph
from invariance_propagation.data import sources
from invariance_propagation.devices import MODES, Runner
from invariance_propagation.devices.topologies import described_devices
from invariance_propagation.errors import UserError
from invariance_propagation.parallel import (
    AXIS,
    REPLICATED,
    SHARDED,
    psum,
    put_rows,
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


def rows_of(topology: str, examples: int = EXAMPLES) -> int:
    devices = devices_of(topology)
    return rows_per_device(examples, len(devices), devices[0].platform)


def objective(
    topology: str,
    mode: str,
    batch: int,
    *,
    examples: int = EXAMPLES,
    graph_spec: PartitionSpec = REPLICATED,
) -> jax.stages.Compiled:
    """Compiles losses, gradient, and the new rows of bank and graph."""
    runner = Runner(Mesh(np.array(devices_of(topology)), (AXIS,)), mode)

    def step(bank: jax.Array, graph: jax.Array, *rest: jax.Array) -> tuple:
        embeddings, indices = rest

        def total(embeddings: jax.Array) -> tuple:
            losses = invp_losses(
                embeddings,
                indices,
                bank,
                graph,
                num_hops=HOPS,
                temperature=0.07,
                num_examples=None if graph_spec == REPLICATED else examples,
                axis_name=AXIS,
            )
            return (losses.instance + losses.propagation).mean(), losses.neighbors

        (loss, neighbors), gradient = jax.value_and_grad(total, has_aux=True)(
            embeddings
        )
        bank = update_bank(bank, indices, embeddings, axis_name=AXIS)
        if graph_spec == REPLICATED:
            graph = update_graph(graph, indices, neighbors, axis_name=AXIS)
        else:
            graph = put_rows(graph, indices, neighbors, axis_name=AXIS)
        return bank, graph, psum(loss, AXIS), gradient

    mapped = runner.compile(
        step,
        (SHARDED, graph_spec, SHARDED, SHARDED),
        (SHARDED, graph_spec, REPLICATED, SHARDED),
        donate=(0, 1),
    )
    shape = jax.ShapeDtypeStruct
    bank = runner.abstract(shape((examples, DIM), jnp.float32), SHARDED)
    graph = runner.abstract(shape((examples, NEIGHBORS), jnp.int32), graph_spec)
    given = (shape((batch, DIM), jnp.float32), shape((batch,), jnp.int32))
    given = runner.abstract_batch(given, (SHARDED, SHARDED))
    return mapped.lower(bank, graph, *given).compile()


def large_copies(program: str, rows: int) -> list[str]:
    """Returns copies, transposes and reshapes of arrays with an axis of `rows`."""
    moved = re.compile(r"= (\(.*?\)|\S+) (?:copy|transpose|reshape|copy-start)\(")
    axis = re.compile(rf"[\[,]{rows}[\],]")
    return [x for x in moved.findall(program) if axis.search(x)]


def imagenet_step(topology: str, **changes: Any) -> Callable[[], jax.stages.Compiled]:
    config = imagenet.get_config()
    config.topology = topology
    config.update_from_flattened_dict(changes)
    dataset = sources.described("imagenet", EXAMPLES, size=224, channels=3)
    run = build(config, dataset=dataset, described=devices_of(topology))
    return lower(run).step.compile


# Megabytes of all that the step of configs/imagenet.py holds on a device. These programs
# take longest, so they are compiled first.
WHOLE = {"v5e-4": 2200, "v5e-8": 1300, "h100-4": 2300}


@pytest.mark.parametrize("topology", WHOLE)
def test_the_step_of_imagenet_fits_and_updates_its_state_in_place(
    topology: str,
) -> None:
    step = imagenet_step(topology)()
    memory, sent = step.memory_analysis(), sent_by(step.as_text())
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    print(topology, held / MB, sent)
    assert held <= WHOLE[topology] * MB
    rows = rows_of(topology)
    assert memory.alias_size_in_bytes >= rows * DIM * 4
    # The gradient of 28 million parameters, once; statistics of BatchNorm where a group
    # spans two devices; and what the objective sends.
    assert sent.pop("all-reduce") <= 115 * MB
    assert sum(sent.values()) <= 3 * MB


class Case(NamedTuple):
    """Names a program of the objective, and its limits.

    Attributes:
      topology, batch, modes: what is compiled.
      megabytes: what it may hold on each device beside its arguments.
      megacycles: what it may take by the compiler's estimate, with one turn of each
        loop; None where the compiler estimates nothing.
    """

    topology: str
    batch: int
    modes: tuple[str, ...]
    megabytes: int
    megacycles: float | None


# 64 and 192 anchors do not fill the 128 lanes of a TPU.
CASES = (
    Case("v5e-1", 128, ("pmap",), 680, 12.0),
    Case("v5e-4", 64, ("pmap",), 180, 3.3),
    Case("v5e-4", 128, MODES, 180, 3.3),
    Case("v5e-4", 192, ("shard_map",), 190, 3.4),
    Case("v5e-8", 256, MODES, 20, 1.9),
    Case("h100-4", 256, MODES, 700, None),
)
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# Bytes that each kind of collective may yield on each device, for each anchor. What
# travels are embeddings, the slots' sums, counts and candidates; never the bank, or
# similarities.
SENT = {
    "all-gather": 1400,
    "all-reduce": 2100,
    "reduce-scatter": 230,
    "all-to-all": 33,
    "collective-permute": 220,
}


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        pytest.param(case, mode, id=f"{case.topology}-{case.batch}-{mode}")
        for case in CASES
        for mode in case.modes
    ],
)
def test_the_objective_copies_nothing_large(case: Case, mode: str) -> None:
    topology, batch, _, megabytes, megacycles = case
    compiled = objective(topology, mode, batch)
    memory, program = compiled.memory_analysis(), compiled.as_text()
    rows, sent = rows_of(topology), sent_by(program)
    cycles = sum(map(int, CYCLES.findall(program))) / 1e6
    print(topology, batch, mode, memory.temp_size_in_bytes / MB, cycles, sent)
    assert not large_copies(program, rows)
    assert memory.temp_size_in_bytes <= megabytes * MB
    if megacycles is not None:
        assert 0 < cycles <= megacycles
    # Bank and graph are updated in place.
    assert memory.alias_size_in_bytes >= rows * DIM * 4 + EXAMPLES * NEIGHBORS * 4
    for kind, size in sent.items():
        assert size <= SENT[kind] * batch, kind


def test_a_billion_images_fit_1024_chips() -> None:
    examples, batch = 10**9, 4096
    compiled = objective(
        "v4-2048", "pmap", batch, examples=examples, graph_spec=SHARDED
    )
    memory, program = compiled.memory_analysis(), compiled.as_text()
    rows, sent = rows_of("v4-2048", examples), sent_by(program)
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    print(memory, sent)
    # A v4 fetches its part of the graph, 16 MB, into a faster memory of 128 MB beforehand.
    graph = re.compile(rf"\[(?:1,)?{rows},{NEIGHBORS}\]")
    copies = large_copies(program, rows)
    assert all(graph.search(x) and "S(3)" in x for x in copies)
    assert held <= 1100 * MB
    assert memory.alias_size_in_bytes >= rows * (DIM + NEIGHBORS) * 4
    for kind, size in sent.items():
        assert size <= SENT[kind] * batch, kind
