"""What a GPU or TPU makes of the code: right numbers first, then time and memory.

    python benchmarks/accelerator.py --minutes=9 --output=runs/accelerator
    python benchmarks/accelerator_page.py runs/accelerator

Stages run in order of worth, each in a process of its own. A stage that ends writes
OUTPUT/STAGE.json; the same command continues with the first stage that has none. It needs
no network, and of requirements.txt neither tensorflow-datasets nor tensorboardX for the
stages `oracle`, `objective-*` and `torch-step`. PyTorch is compared with where it is
installed. `--small` is a trial in miniature, on a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

ROOT = Path(__file__).parents[1]
EXACT = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
PRECISIONS = ("highest", "high", "bfloat16")
VARIANTS = ("pytorch", "products", "released", "paper")
STEPS = 10  # timed, after two that are not


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--small", action="store_true", help="in miniature")
    parser.add_argument("--fashion", default="", help="folder of Fashion-MNIST's files")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    for stage in STAGES:
        path = options.output / f"{stage}.json"
        if path.exists():
            print(f"{stage}: there already")
            continue
        left = ends - time.monotonic()
        if left < 10:
            print(f"{stage}: no time is left; the same command continues here")
            return
        run_stage(stage, path, left)


def run_stage(stage: str, path: Path, seconds: float) -> None:
    """Runs a stage in a process, for at most `seconds`, and keeps what it returns."""
    print(f"{stage} ...", flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], f"--stage={stage}"]
    environment = os.environ | {"BENCHMARK_SECONDS": f"{seconds:.0f}"}
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        print(f"{stage}: not done in {seconds:.0f} s; the same command tries it again")
        return
    took = time.monotonic() - begun
    if done.returncode:
        result = {"failed": done.stderr.strip().splitlines()[-8:]}
        print(f"{stage}: failed after {took:.0f} s: {result['failed'][-1:]}")
    else:
        result = json.loads(done.stdout.splitlines()[-1])
        print(f"{stage}: {took:.0f} s: {json.dumps(result)[:300]}", flush=True)
    draft = path.with_suffix(".part")
    record = provenance() | {"stage": stage, "seconds": round(took, 1)} | result
    draft.write_text(json.dumps(record, indent=2) + "\n")
    draft.replace(path)


def card() -> dict[str, Any]:
    """Names the devices that JAX sees."""
    import jax

    devices = jax.devices()
    return {"devices": f"{len(devices)} x {devices[0].device_kind}"}


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
    return card() | {name: summary[name] for name in names} | {"s": since(begun)}


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


def objective(examples: int) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Times the objective beside PyTorch and the two products alone."""

    def measure(options: argparse.Namespace) -> dict[str, Any]:
        import objective as bench

        found: dict[str, Any] = {}
        count = 5000 if options.small else examples
        for batch in (32,) if options.small else (128, 256, 1024):
            chosen = argparse.Namespace(examples=count, batch=batch, devices=1)
            runs = {name: bench.start_child(name, chosen) for name in VARIANTS}
            found[f"B={batch}"] = {
                name: {key: run[key] for key in ("seconds", "peak_bytes", "backend")}
                for name, run in runs.items()
                if run
            }
        return {"examples": count} | found

    return measure


def step(options: argparse.Namespace) -> dict[str, Any]:
    """Times the step of configs/imagenet.py, with a bank of the full size."""
    found: dict[str, Any] = card()
    for batch in (8,) if options.small else (128, 256):
        whole = time_step(options, batch)
        alone = time_step(options, batch, weight=0.0)
        found[f"B={batch}"] = whole | {"without_propagation": alone["seconds"]}
    return found


def time_step(
    options: argparse.Namespace, batch: int, *, weight: float | None = None
) -> dict[str, Any]:
    """Takes steps on images that are already there; the plan beside what is measured."""
    import jax

    from configs import imagenet
    from invariance_propagation.data import sources
    from invariance_propagation.tasks.plan.memory import make_plan
    from invariance_propagation.train.build import build
    from invariance_propagation.train.run import init_state, lower

    config = imagenet.get_config()
    config.num_devices = 1
    config.train.batch_size = batch
    config.encoder.norm_group = min(batch, config.encoder.norm_group)
    count, size = 1_281_167, config.augment.size
    if options.small:
        config.encoder.update(depth=6, width=4, hidden=8, norm_group=batch)
        config.augment.size = size = 32
        config.method.background_size = 64
        count = 2000
    if weight is not None:
        config.method.propagation_weight = weight
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

    seconds = median_seconds(take)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "images_per_second": batch / seconds,
        "planned_bytes": plan.per_device,
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "loss": float(metrics["loss"]),
    }


def median_seconds(take: Callable[[], None]) -> float:
    """Returns the median seconds of a step that waits for its end."""
    times = []
    for _ in range(2 + STEPS):
        begun = time.perf_counter()
        take()
        times.append(time.perf_counter() - begun)
    return float(np.median(times[2:]))


def torch_step(options: argparse.Namespace) -> dict[str, Any]:
    """Times a ResNet-50 step of PyTorch: channels last, autocast, SGD; no objective."""
    import torch
    from torch.nn import functional

    from tests.reference.torchvision_resnet import TorchResNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    depth, width, size = (18, 4, 32) if options.small else (50, 64, 224)
    found: dict[str, Any] = {"device": device, "torch": torch.__version__}
    for batch in (8,) if options.small else (128, 256):
        network = TorchResNet(depth, "imagenet", width, 3).to(device)
        network = network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
        images = torch.rand(batch, 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)

        def take(
            network: Any = network, optimizer: Any = optimizer, images: Any = images
        ) -> None:
            with torch.autocast(device, dtype=torch.bfloat16):
                features = network(images)
            loss = functional.normalize(features.float(), dim=1).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()

        seconds = median_seconds(take)
        found[f"B={batch}"] = {"seconds": seconds, "images_per_second": batch / seconds}
    return found


def fashion(options: argparse.Namespace) -> dict[str, Any]:
    """Trains ResNet-18 on all of Fashion-MNIST, as long as there is time; resumes."""
    from configs import fashion_mnist
    from invariance_propagation.errors import Stopped
    from invariance_propagation.train.journal import read_rows
    from invariance_propagation.train.pretrain import train_and_evaluate

    if not options.fashion:
        return {"left_out": "--fashion=DIR names the folder of its four files"}
    hours = max(0.002, (float(os.environ["BENCHMARK_SECONDS"]) - 60) / 3600 / 3)
    found: dict[str, Any] = card()
    for name, changes in FORMS.items():
        config = fashion_mnist.get_config()
        config.num_devices = 1
        config.data.folder = options.fashion
        config.encoder.width = 64
        config.train.stop_after_hours = hours
        config.method.update(changes)
        workdir = options.output / f"fashion-{name}"
        try:
            train_and_evaluate(config, str(workdir))
        except Stopped as stopped:
            if stopped.status:
                raise
        scored = [row for row in read_rows(workdir) if "knn" in row]
        found[name] = scored[-1] if scored else None
    return found


FORMS = {
    "instance": {"propagation_weight": 0.0},
    "released": {"form": "released"},
    "paper": {"form": "paper"},
}


def since(begun: float) -> float:
    return round(time.monotonic() - begun, 1)


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "oracle": oracle,
    "digits": digits,
    "resume": resume,
    "objective-60000": objective(60_000),
    "step": step,
    "torch-step": torch_step,
    "objective-1281167": objective(1_281_167),
    "fashion": fashion,
}

if __name__ == "__main__":
    main()
