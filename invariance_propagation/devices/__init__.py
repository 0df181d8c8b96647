"""Devices and processes: a function for one device is mapped over all of them."""

from invariance_propagation.devices.cpu import one_cpu_device_per_core, split_cpu
from invariance_propagation.devices.mesh import MODES, make_runner
from invariance_propagation.devices.runner import Runner

__all__ = ["MODES", "Runner", "make_runner", "one_cpu_device_per_core", "split_cpu"]
