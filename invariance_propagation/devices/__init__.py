"""Devices and processes: how a function for one device is mapped over all of them."""

from invariance_propagation.devices.runner import (
    MODES,
    Runner,
    make_runner,
    one_cpu_device_per_core,
    split_cpu,
)

__all__ = ["MODES", "Runner", "make_runner", "one_cpu_device_per_core", "split_cpu"]
