"""Eight CPU devices for every test, and the one maker of random problems."""

import gc
import os
import tempfile
import time
from importlib.metadata import version

# XLA's pool must have a thread left for work while one per device waits in a collective,
# or a machine with fewer cores than devices may stop there and be aborted.
os.environ.setdefault("PJRT_NPROC", str((os.cpu_count() or 1) + 8))

# Tests compile much and compute little. A program that is hardly optimised is ready in a
# fourth of the time. `optimized` is for tests of what XLA makes of a program, and
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 runs all tests on optimised programs.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# JAX 0.11 and later know no such flag, and end where they meet an unknown one.
if version("jaxlib") < "0.11":
    FLAGS = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
    os.environ.setdefault("XLA_FLAGS", FLAGS)

# Many tests run the same small program. It is compiled once: pytest's workers and the
# programs that tests start read it from here. The size makes JAX lock the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="jax-cache-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(10**10))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402

# Only possible before the first JAX operation, hence above all other imports.
jax.config.update("jax_num_cpu_devices", 8)
# What is known of pictures and labels is kept, and not where people keep it.
KEPT = tempfile.TemporaryDirectory(prefix="kept-")
os.environ["XDG_CACHE_HOME"] = KEPT.name

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402


class Problem(NamedTuple):
    """The four arrays the objective reads, in the order in which `invp_losses` takes them."""

    embeddings: np.ndarray  # [b, d] float32, not normalised
    indices: np.ndarray  # [b] int32, all different
    bank: np.ndarray  # [N, d] float32
    graph: np.ndarray  # [N, k] int32, no row names itself


def random_problem(
    seed: int,
    *,
    num_examples: int = 40,
    batch: int = 6,
    dim: int = 8,
    num_neighbors: int = 4,
    anchors: str = "near",
) -> Problem:
    """`anchors`: the embedding lies 'near' its bank row, 'far' (opposite) from it, or 'anywhere'."""
    rng = np.random.default_rng(seed)
    bank = rng.normal(size=(num_examples, dim))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    # Rows not visited yet are not of unit norm.
    bank[::3] *= rng.uniform(0.6, 1.3, size=(len(bank[::3]), 1))
    indices = rng.permutation(num_examples)[:batch]
    noise = rng.normal(size=(batch, dim)) / np.sqrt(dim)
    towards = {"near": 1.0, "far": -1.0, "anywhere": 0.0}[anchors]
    embeddings = towards * bank[indices] + 0.7 * noise
    embeddings *= rng.uniform(0.5, 3.0, size=(batch, 1))
    graph = [
        rng.choice(np.delete(np.arange(num_examples), i), num_neighbors, replace=False)
        for i in range(num_examples)
    ]
    return Problem(
        embeddings.astype(np.float32),
        indices.astype(np.int32),
        bank.astype(np.float32),
        np.array(graph, np.int32),
    )


def tied_problem(levels: list[float], seed: int = 21, **shape: int) -> Problem:
    """A problem full of exact ties, in float32 as in float64.

    Embeddings lie along the first axis, so that a similarity is the first coordinate of a
    bank row, one of `levels`; tied rows differ in the other coordinates.
    """
    problem = random_problem(seed, **shape)
    embeddings, bank = np.zeros_like(problem.embeddings), problem.bank.copy()
    embeddings[:, 0] = 2.0 ** np.arange(len(embeddings)) / 4
    bank[:, 0] = np.random.default_rng(seed).choice(levels, size=len(bank))
    return problem._replace(embeddings=embeddings, bank=bank)


def pytest_collection_finish() -> None:
    """Spares the collector what was imported, and most of its rounds while JAX traces."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


CHECK_SECONDS = 5.0  # listing 30,000 mappings takes 33 ms
last_check = 0.0


@pytest.fixture(autouse=True)
def forget_programs() -> Iterator[None]:
    """Compiled programs are mapped memory, and a process may have 65,530 mappings.

    Beyond that the compiler crashes. A test makes some hundreds, and a whole run of
    training a thousand or two, which takes seconds.
    """
    global last_check
    yield
    mappings = Path("/proc/self/maps")
    if time.monotonic() < last_check + CHECK_SECONDS or not mappings.exists():
        return
    last_check = time.monotonic()
    if mappings.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    return random_problem


@pytest.fixture(scope="session")
def make_tied_problem() -> Callable[..., Problem]:
    return tied_problem


@pytest.fixture
def optimized() -> Iterator[None]:
    """For tests of what XLA makes of a program."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
