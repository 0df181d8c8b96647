"""The steps over the bank that objective.py times: ours, PyTorch's, and products alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

DIM, NEIGHBORS, HOPS, HARD, BACKGROUND, TEMPERATURE = 128, 4, 3, 50, 4096, 0.2
WEIGHT, MOMENTUM, CENTERS = 0.6, 0.5, 1000


class Step(NamedTuple):
    """take: does it, and waits; peak: bytes, None if the device does not say;
    compiled: the compiled program, None where there is none."""

    take: Callable[[], None]
    peak: Callable[[], int | None]
    compiled: Callable[[], Any] = lambda: None


def problem(count: int, batch: int) -> tuple[np.ndarray, ...]:
    """Embeddings, indices, bank and graph: rows around centres, as after training."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CENTERS, DIM), dtype=np.float32)
    center = rng.integers(0, CENTERS, count)
    bank = rng.standard_normal((count, DIM), dtype=np.float32)
    bank += centers[center]
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    indices = rng.permutation(count)[:batch].astype(np.int32)
    graph = rng.integers(0, count, (count, NEIGHBORS), dtype=np.int32)
    noise = rng.standard_normal((batch, DIM), dtype=np.float32)
    return bank[indices] + 0.05 * noise, indices, bank, graph


def total_loss(
    embeddings, indices, bank, graph, *, temperature: float = TEMPERATURE, **options
):
    """Mean of both losses, and what `invp_losses` returns."""
    from invariance_propagation import invp_losses

    losses = invp_losses(
        embeddings,
        indices,
        bank,
        graph,
        num_hops=HOPS,
        num_hard=HARD,
        background_size=BACKGROUND,
        temperature=temperature,
        **options,
    )
    return (losses.instance + WEIGHT * losses.propagation).mean(), losses


def jax_step(embeddings, indices, bank, graph, **options) -> Step:
    import jax

    from invariance_propagation import update_bank, update_graph
    from invariance_propagation.devices import make_runner
    from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
    from invariance_propagation.train.step import zero_unless_finite

    def step(memory, embeddings, indices):
        bank, graph = memory

        gradient, losses = jax.grad(total_loss, has_aux=True)(
            embeddings, indices, bank, graph, axis_name=AXIS, **options
        )
        embeddings = zero_unless_finite(embeddings, gradient)
        graph = update_graph(graph, indices, losses.neighbors, axis_name=AXIS)
        bank = update_bank(bank, indices, embeddings, momentum=MOMENTUM, axis_name=AXIS)
        return (bank, graph), gradient

    runner = make_runner("pmap")
    memory_spec = (SHARDED, REPLICATED)
    mapped = runner.compile(
        step, (memory_spec, SHARDED, SHARDED), (memory_spec, SHARDED), donate=(0,)
    )
    memory = runner.put((bank, graph), memory_spec)
    placed = runner.put((embeddings, indices), (SHARDED, SHARDED))

    def take() -> None:
        nonlocal memory
        memory, gradient = mapped(memory, *placed)
        jax.block_until_ready((memory, gradient))

    return Step(take, peak_of_device, lambda: mapped.lower(memory, *placed).compile())


def products_step(embeddings, indices, bank, graph) -> Step:
    """Similarities, and as large a product back: what no implementation can avoid."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from invariance_propagation.devices import make_runner
    from invariance_propagation.parallel import AXIS, SHARDED, all_gather

    def step(embeddings, bank):
        anchors = all_gather(embeddings, AXIS)
        similarities = jnp.matmul(anchors, bank.T, precision=lax.Precision.HIGHEST)
        return jnp.matmul(similarities, bank, precision=lax.Precision.HIGHEST)

    runner = make_runner("pmap")
    mapped = runner.compile(step, (SHARDED, SHARDED), SHARDED)
    placed = runner.put((embeddings, bank), (SHARDED, SHARDED))
    return Step(lambda: jax.block_until_ready(mapped(*placed)), peak_of_device)


def peak_of_device() -> int | None:
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def torch_step(embeddings, indices, bank, graph, *, compiled: bool = False) -> Step:
    """The authors' formulas (WangFeng18/InvariancePropagation), written as one does.

    `compiled` has `torch.compile` fuse what it can of the losses.
    """
    import torch
    from torch.nn.functional import normalize

    device = "cuda" if torch.cuda.is_available() else "cpu"
    embeddings, indices, bank, graph = (
        torch.tensor(x, device=device) for x in (embeddings, indices, bank, graph)
    )
    indices, graph = indices.long(), graph.long()
    rows = torch.arange(len(indices), device=device)

    def losses(leaf, bank, graph):
        anchors = normalize(leaf, dim=1)
        scores = torch.exp(anchors @ bank.T / TEMPERATURE)
        own = scores[rows, indices]
        background, order = scores.topk(BACKGROUND, dim=1)
        frontier, hops = indices[:, None], []
        for _ in range(HOPS):
            frontier = graph[frontier].reshape(len(indices), -1)
            hops.append(frontier)
        slots = torch.gather(scores, 1, torch.cat(hops, dim=1))
        hard = slots.topk(HARD, dim=1, largest=False).values
        total = background.sum(1)
        instance = -torch.log(own / total + 1e-7)
        propagation = -torch.log(hard.sum(1) / (total - own) + 1e-7)
        return (instance + WEIGHT * propagation).mean(), anchors, order

    if compiled:
        losses = torch.compile(losses)

    def step() -> None:
        leaf = embeddings.clone().requires_grad_()
        loss, anchors, order = losses(leaf, bank, graph)
        loss.backward()
        with torch.no_grad():
            found = order[:, : NEIGHBORS + 1]
            found = torch.where(found == indices[:, None], found[:, NEIGHBORS:], found)
            graph[indices] = found[:, :NEIGHBORS]
            moved = MOMENTUM * bank[indices] + (1 - MOMENTUM) * anchors
            bank[indices] = normalize(moved, dim=1)
        if device == "cuda":
            torch.cuda.synchronize()

    def peak() -> int | None:
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    return Step(step, peak)
