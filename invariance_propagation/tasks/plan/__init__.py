"""Tells what a run takes of memory without running it, on this machine or another."""

from invariance_propagation.tasks.plan.task import print_plan

__all__ = ["print_plan"]
