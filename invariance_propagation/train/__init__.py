"""Trains: builds a run from a config, takes its steps, logs, evaluates and saves."""

from invariance_propagation.train.pretrain import train_and_evaluate

__all__ = ["train_and_evaluate"]
