"""What the compilers of TPUs and GPUs make of the objective and of a whole step.

    make compile

Limits are those of `programs.py`, and those named here.
"""

import jax
import pytest

from configs import imagenet
from invariance_propagation.data import sources
from invariance_propagation.devices import MODES
from invariance_propagation.tasks.plan.collectives import sent_by
from invariance_propagation.train.build import build
from invariance_propagation.train.run import lower
from tests.compiled.programs import (
    DIM,
    EXAMPLES,
    MB,
    Case,
    case_params,
    check_objective,
    devices_of,
    rows_of,
)


def imagenet_step(topology: str) -> jax.stages.Compiled:
    config = imagenet.get_config()
    config.topology = topology
    dataset = sources.described("imagenet", EXAMPLES, size=224, channels=3)
    run = build(config, dataset=dataset, described=devices_of(topology))
    return lower(run).step.compile()


# Megabytes of all that the step of configs/imagenet.py holds on a device. These programs
# take longest, so they are compiled first.
WHOLE = {"v5e-4": 2200, "v5e-8": 1300, "h100-4": 2300}


@pytest.mark.parametrize("topology", WHOLE)
def test_the_step_of_imagenet_fits_and_updates_its_state_in_place(
    topology: str,
) -> None:
    step = imagenet_step(topology)
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


CASES = (
    Case("v5e-4", 128, MODES, 180, 3.3),
    Case("v5e-8", 256, MODES, 20, 1.9),
    Case("h100-4", 256, MODES, 700, None),
)


@pytest.mark.parametrize(("case", "mode"), case_params(CASES))
def test_the_objective_copies_nothing_large(case: Case, mode: str) -> None:
    check_objective(case, mode)
