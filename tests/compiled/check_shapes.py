"""What the compiler of TPUs makes of the objective for unusual batches, chips and banks.

    make compile-shapes

Limits are those of `programs.py`, and those named here.
"""

import re

import pytest

from invariance_propagation.parallel import SHARDED
from invariance_propagation.tasks.plan.collectives import sent_by
from tests.compiled.programs import (
    DIM,
    MB,
    NEIGHBORS,
    Case,
    assert_sent,
    case_params,
    check_objective,
    large_copies,
    objective,
    rows_of,
)

# 64 and 192 anchors do not fill the 128 lanes of a TPU.
CASES = (
    Case("v5e-1", 128, ("pmap",), 680, 12.0),
    Case("v5e-4", 64, ("pmap",), 180, 3.3),
    Case("v5e-4", 192, ("shard_map",), 190, 3.4),
)


@pytest.mark.parametrize(("case", "mode"), case_params(CASES))
def test_the_objective_copies_nothing_large(case: Case, mode: str) -> None:
    check_objective(case, mode)


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
    assert_sent(sent, batch)
