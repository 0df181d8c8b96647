"""Whether the numbers are right on this device."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages.card import card

ROOT = Path(__file__).parents[2]
EXACT = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
PRECISIONS = ("highest", "high", "bfloat16")


def oracle(options: argparse.Namespace) -> dict[str, Any]:
    """Compares losses and gradients with a float64 oracle, at each precision."""
    import jax

    from invariance_propagation import invp_losses
    from tests.reference import objective as reference

    random = np.random.default_rng(0)
    count, batch, dim = (300, 8, 16) if options.small else (20_000, 32, 128)
    bank = random.normal(size=(count, dim)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    indices = random.permutation(count)[:batch].astype(np.int32)
    noise = random.normal(size=(batch, dim)).astype(np.float32)
    embeddings = bank[indices] + 0.3 * noise / dim**0.5
    graph = random.integers(0, count, (count, 4)).astype(np.int32)
    settings = {
        "num_hops": 2,
        "num_hard": 10,
        "background_size": count // 20,
        "temperature": 0.07,
        "form": "paper",
        "positives": "hard",
    }
    right = reference.losses(embeddings, indices, bank, graph, **settings)
    found: dict[str, Any] = card()
    for precision in PRECISIONS:

        def total(embeddings: Any, precision: str = precision) -> tuple:
            losses = invp_losses(
                embeddings, indices, bank, graph, precision=precision, **settings
            )
            return (losses.instance + losses.propagation).sum(), losses

        gradient, losses = jax.jit(jax.grad(total, has_aux=True))(embeddings)
        slope = right.instance_gradient + right.propagation_gradient
        wrong = np.abs(np.asarray(gradient) - slope).max() / np.abs(slope).max()
        found[precision] = {
            "instance": worst(losses.instance, right.instance),
            "propagation": worst(losses.propagation, right.propagation),
            "gradient": float(wrong),
            "other_neighbors": float(np.mean(losses.neighbors != right.neighbors)),
        }
    return found


def worst(got: Any, right: np.ndarray) -> float:
    """Returns the largest relative difference."""
    return float(np.max(np.abs(np.asarray(got) - right) / np.abs(right)))


def digits(options: argparse.Namespace) -> dict[str, Any]:
    """Trains configs/digits.py to its end."""
    from configs import digits as config_file
    from invariance_propagation.train.pretrain import train_and_evaluate

    config = config_file.get_config()
    config.num_devices = 1
    if options.small:
        config.encoder.update(depth=6, width=4, hidden=8)
        config.data.num_train = 256
        config.train.update(batch_size=32, epochs=2, evaluate_every=1)
        config.method.update(background_size=64, start_epoch=1)
        config.optimizer.warmup_epochs = 0
    begun = time.monotonic()
    summary = train_and_evaluate(config, str(options.output / "digits"))
    names = ("knn_untrained", "knn_trained", "steps")
    return (
        card()
        | {name: summary[name] for name in names}
        | {"s": round(time.monotonic() - begun, 1)}
    )


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """Compares an interrupted run with an uninterrupted one, bit by bit."""
    command = [sys.executable, "main.py", "--config=configs/digits.py"]
    command += ["--config.task=verify_resume", "--config.num_devices=1"]
    if options.small:
        command += ["--config.encoder.depth=6", "--config.encoder.width=4"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | EXACT
    )
    return {"exact": not done.returncode, "said": done.stdout.strip().splitlines()[-1:]}
