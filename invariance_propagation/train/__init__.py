"""Training: from a config to a run, its steps, and what is said and kept of it."""

from invariance_propagation.train.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]
