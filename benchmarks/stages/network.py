"""The step of configs/imagenet.py, its parts, and PyTorch's step beside it."""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import steps

from stages.card import card, times_of


def step(options: argparse.Namespace, *, batch: int) -> dict[str, Any]:
    """Times the step, with a bank of the full size; the plan beside what is measured.

    Its views and the objective over the bank are timed alone afterwards. The peak of
    memory is that of the steps.
    """
    import jax

    from configs import imagenet
    from invariance_propagation.data import sources
    from invariance_propagation.data.views.augment import per_image_keys
    from invariance_propagation.tasks.plan.memory import make_plan
    from invariance_propagation.train.build import build
    from invariance_propagation.train.run import init_state, lower

    config = imagenet.get_config()
    config.num_devices = 1
    count, size = 1_281_167, config.augment.size
    if options.small:
        batch = 8
        config.encoder.update(depth=6, width=4, hidden=8, norm_group=batch)
        config.augment.size = size = 32
        config.method.background_size = 64
        count = 6000
    config.train.batch_size = batch
    dataset = sources.described("imagenet", count, size=size, channels=3)
    run = build(config, dataset=dataset)
    plan = make_plan(run)
    programs = lower(run)
    random = np.random.default_rng(0)

    def drawn(x: jax.ShapeDtypeStruct) -> jax.Array:
        values = random.integers(0, 255, x.shape).astype(x.dtype)
        return jax.device_put(values, x.sharding)

    images = jax.tree.map(drawn, programs.images)
    order = random.permutation(count)[:batch].astype(np.int32)
    indices = jax.device_put(
        order.reshape(programs.indices.shape), programs.indices.sharding
    )
    state, metrics = init_state(run), {}

    def take() -> None:
        nonlocal state, metrics
        state, metrics = run.step(state, indices, images, {})
        jax.block_until_ready((state, metrics))

    seconds = statistics.median(times_of(take))
    stats = jax.local_devices()[0].memory_stats() or {}
    pictures = random.integers(0, 255, (batch, size, size, 3)).astype(np.uint8)
    keys, views = per_image_keys(0, 0, order), jax.jit(run.input.views)
    of_views = statistics.median(
        times_of(lambda: jax.block_until_ready(views(keys, pictures)))
    )
    over_bank = steps.jax_step(*steps.problem(count, batch))
    of_objective = statistics.median(times_of(over_bank.take))
    return card() | {
        "seconds": seconds,
        "images_per_second": batch / seconds,
        "share_of_views": of_views / seconds,
        "share_of_objective": of_objective / seconds,
        "planned_bytes": plan.per_device,
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "loss": float(metrics["loss"]),
    }


def torch_step(options: argparse.Namespace, *, batch: int) -> dict[str, Any]:
    """Times a ResNet-50 step of PyTorch: channels last, autocast, SGD; no objective."""
    import torch
    from torch.nn import functional

    from tests.reference.torchvision_resnet import TorchResNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    depth, width, size = 50, 64, 224
    if options.small:
        depth, width, size, batch = 18, 4, 32, 8
    network = TorchResNet(depth, "imagenet", width, 3).to(device)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
    images = torch.rand(batch, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def take() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            features = network(images)
        loss = functional.normalize(features.float(), dim=1).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = statistics.median(times_of(take))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        "device": device,
        "torch": torch.__version__,
        "seconds": seconds,
        "images_per_second": batch / seconds,
        "peak_bytes": peak,
    }


def host_input(options: argparse.Namespace) -> dict[str, Any]:
    """Measures how many images a second the host decodes and crops, in each way."""
    import input as bench
    from absl import flags

    flags.FLAGS(sys.argv[:1])  # Grain's worker processes want them
    rounds, batches = (1, 2) if options.small else (3, 24)
    with tempfile.TemporaryDirectory() as folder:
        files = bench.Files(bench.write_pictures(Path(folder)))
        rates = bench.measure(files, rounds, batches)
    return {name: statistics.median(found) for name, found in rates.items()}
