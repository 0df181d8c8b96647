"""The device under test, and how work on it is timed."""

import time
from collections.abc import Callable
from typing import Any

CALLS = 10  # timed, after two that are not


def card() -> dict[str, Any]:
    """Names the devices that JAX sees."""
    import jax

    devices = jax.devices()
    return {"devices": f"{len(devices)} x {devices[0].device_kind}"}


def times_of(take: Callable[[], Any]) -> list[float]:
    """Returns the seconds of each call of what waits for its own end."""
    times = []
    for _ in range(2 + CALLS):
        begun = time.perf_counter()
        take()
        times.append(time.perf_counter() - begun)
    return times[2:]
