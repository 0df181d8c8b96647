"""Trains: builds a run from a config, takes its steps, logs, evaluates and saves."""

from invariance_propagation.train.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]
