"""The objective, compiled for TPUs and GPUs, and what such a program may do.

Nothing runs: a topology describes devices that are not here. Limits are those of the
compiled programs that this repository was written with, and a little more.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from invariance_propagation import invp_losses, update_bank, update_graph
from invariance_propagation.devices import Runner
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

EXAMPLES, DIM, NEIGHBORS, HOPS = 1_281_167, 128, 4, 3
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


def case_params(cases: Iterable[Case]) -> list:
    """Returns (case, mode) for `pytest.mark.parametrize`."""
    return [
        pytest.param(case, mode, id=f"{case.topology}-{case.batch}-{mode}")
        for case in cases
        for mode in case.modes
    ]


def assert_sent(sent: dict[str, int], batch: int) -> None:
    """Checks the bytes of each kind of collective."""
    for kind, size in sent.items():
        assert size <= SENT[kind] * batch, kind


def check_objective(case: Case, mode: str) -> None:
    """Compiles the objective of a case, and checks its limits."""
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
    assert_sent(sent, batch)
