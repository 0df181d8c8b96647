"""Devices and processes: a function for one device is mapped over all of them."""

from invariance_propagation.devices.cpu import one_cpu_device_per_core, split_cpu
from invariance_propagation.devices.runner import MODES, Runner, make_runner

__all__ = ["MODES", "Runner", "make_runner", "one_cpu_device_per_core", "split_cpu"]
