"""The device under test."""

from typing import Any


def card() -> dict[str, Any]:
    """Names the devices that JAX sees."""
    import jax

    devices = jax.devices()
    return {"devices": f"{len(devices)} x {devices[0].device_kind}"}
