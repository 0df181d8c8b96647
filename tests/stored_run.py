"""Writes a checkpoint as a run leaves it, without training."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from configs import digits
from invariance_propagation.methods.invariance_propagation import Memory
from invariance_propagation.models import make_encoder
from invariance_propagation.models.torchvision import variable_shapes
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.facts import pack_ids
from invariance_propagation.train.step import TrainState

NUM_EXAMPLES, DIM = 12, 5
IDS = [f"kind/{i}.png" for i in range(NUM_EXAMPLES)]
ENCODER = {"width": 4, "hidden": 6, "dim": DIM}


def random_tree(shapes: Any, seed: int) -> Any:
    """Makes variables like a trained network's: none 0 or 1, features of order 1."""
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            x = random.normal(0, spread, leaf.shape)
        elif name in ("scale", "var"):
            low, high = {"scale": (0.1, 0.6), "var": (0.5, 1.5)}[name]
            x = random.uniform(low, high, leaf.shape)
        else:
            x = random.normal(0, 0.2, leaf.shape)
        return x.astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


def state_of(step: int, encoder: dict[str, Any], channels: int = 1) -> TrainState:
    shapes = variable_shapes(make_encoder(**encoder), channels)
    variables = random_tree(shapes, step)
    params = variables["params"]
    random = np.random.default_rng(step)
    bank = random.normal(size=(NUM_EXAMPLES, DIM)).astype(np.float32)
    graph = random.integers(0, NUM_EXAMPLES, (NUM_EXAMPLES, 3)).astype(np.int32)
    opt_state = ({"count": np.int32(step), "trace": params},)
    memory = Memory(bank, graph)
    return TrainState(
        np.int32(step), params, variables["batch_stats"], opt_state, memory
    )


def store_run(
    workdir: Path,
    steps: tuple[int, ...] = (3, 7),
    *,
    channels: int = 1,
    data: Mapping[str, Any] = MappingProxyType({}),
    method: Mapping[str, Any] = MappingProxyType({}),
    digest: str = "0123",
    **encoder: Any,
) -> dict[int, TrainState]:
    """Writes checkpoints; `data`, `method` and `encoder` change sections. Returns what they hold."""
    config = digits.get_config()
    config.data.update(data)
    config.method.update(method)
    config.encoder.update(ENCODER | encoder)
    facts = {
        "dataset": "image_folder",
        "num_examples": NUM_EXAMPLES,
        "batch_size": config.train.batch_size,
        "digest": digest,
        "config": json.loads(config.to_json_best_effort()),
        "sample_ids": pack_ids(IDS),
        "memory": {"rows": "bank", "neighbors": "graph"},
    }
    states = {step: state_of(step, dict(config.encoder), channels) for step in steps}
    checkpoints = Checkpoints(workdir, keep=len(steps))
    for step, state in states.items():
        checkpoints.save(step, state, facts | {"step": step})
    checkpoints.finish()
    checkpoints.close()
    return states
