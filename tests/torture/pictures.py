"""Damaged pictures of every kind by the thousand."""

import time
import warnings

import numpy as np

from invariance_propagation.data.load.decoding import decode
from tests.data.mutations import KINDS, READ_ONLY, mutations
from tests.torture.runs import Outcome

SLOWEST = 5.0  # seconds
ALL = (*KINDS, *READ_ONLY)


def mutate(*, count: int) -> Outcome:
    """Decodes `count` damaged files: pixels, or one named line, and nothing else."""
    each, failures, tried, refused, slowest = -(-count // len(ALL)), [], 0, 0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ALL:
            for number, content in enumerate(mutations(kind, count=each, seed=2)):
                began = time.perf_counter()
                tried += 1
                try:
                    pixels = decode(content)
                    if pixels.dtype != np.uint8 or pixels.ndim != 3:
                        failures.append(
                            f"{kind} {number}: {pixels.dtype}, {pixels.shape}"
                        )
                except ValueError as error:
                    refused += 1
                    if "\n" in str(error):
                        failures.append(f"{kind} {number}: more than a line")
                except BaseException as error:
                    failures.append(f"{kind} {number}: {error!r}")
                took = time.perf_counter() - began
                slowest = max(slowest, took)
                if took > SLOWEST:
                    failures.append(f"{kind} {number}: {took:.1f} s")
    note = f"{len(ALL)} kinds, {refused} refused, the slowest took {slowest:.2f} s"
    return Outcome("damaged pictures", tried, failures, note)
