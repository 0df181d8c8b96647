"""What accelerator.py measures, stage by stage, in order of worth.

Each stage takes the options of the command, runs in a process of its own, so that its
peak of memory is its own, and returns what goes into its JSON.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from stages import bank, correct, fashion, network

Stage = Callable[[argparse.Namespace], dict[str, Any]]

STAGES: dict[str, Stage] = {
    "oracle": correct.oracle,
    "digits": correct.digits,
    "resume": correct.resume,
    "peaks": bank.peaks,
    "objective-60000": partial(bank.objective, examples=60_000),
    "step-128": partial(network.step, batch=128),
    "step-256": partial(network.step, batch=256),
    "torch-step-128": partial(network.torch_step, batch=128),
    "torch-step-256": partial(network.torch_step, batch=256),
    "objective-1281167": partial(bank.objective, examples=1_281_167),
    "input": network.host_input,
    "fashion": fashion.fashion,
}
