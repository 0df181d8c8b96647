"""Describes TPUs and GPUs that are not here, so that their compilers can be used.

The compilers of TPUs and of NVIDIA's GPUs run on any Linux host. JAX describes to them a
slice of a TPU or a machine with GPUs; its devices make a mesh, for which programs can be
compiled but not run.
"""

import os
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax

from invariance_propagation.errors import UserError

GIB = 2**30
# The extra that brings each compiler, and a module that tells whether it is there.
COMPILERS = {
    "tpu": ("plan-tpu", "libtpu"),
    "cuda": ("plan-cuda", "jax_plugins.xla_cuda12"),
}
# With these, the TPU's compiler asks no server what this machine is, prints no errors about
# it, and lets other processes compile as well.
LOADING = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """Holds what the maker's data sheet says of one device.

    Attributes:
      memory: bytes that programs can use.
      flops: multiplications and additions of bfloat16 per second, at the peak.
      bandwidth: bytes per second between the device and its memory.
      link: bytes per second between the device and the others.
      description: for a GPU, what its compiler needs to know; None for a TPU.
    """

    memory: int
    flops: float
    bandwidth: float
    link: float
    description: str | None = None


class Topology(NamedTuple):
    """Describes connected devices of one kind.

    Attributes:
      chip: what each of them is.
      platform: 'tpu' or 'cuda'.
      options: of `jax.experimental.topologies.get_topology_desc`.
    """

    chip: Chip
    platform: str
    options: dict[str, Any]


def _gpu(name: str, text: str) -> str:
    """Describes a GPU to its compiler, in the form of XLA's target configs."""
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 "
        "shared_memory_per_block: 49152 threads_per_core_limit: 2048 "
        "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 "
        "block_dim_limit_z: 65535 registers_per_core_limit: 65536 "
        f"registers_per_block_limit: 65536 {text} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
        "runtime_version { major: 12 minor: 8 patch: 0 } "
        f'device_description_str: "{name}"'
    )


H100 = _gpu(
    "NVIDIA H100 80GB HBM3",
    "shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128 "
    "memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 "
    "device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 "
    "cuda_compute_capability { major: 9 }",
)
A100 = _gpu(
    "NVIDIA A100-SXM4-80GB",
    "shared_memory_per_core: 167936 core_count: 108 fpus_per_core: 64 "
    "memory_bandwidth: 2039040000000 l2_cache_size: 41943040 clock_rate_ghz: 1.41 "
    "device_memory_size: 85100068864 shared_memory_per_block_optin: 166912 "
    "cuda_compute_capability { major: 8 }",
)
# Memory as the compilers state it where a program does not fit, else as the data sheets.
CHIPS = {
    "v3": Chip(16 * GIB, 61.5e12, 450e9, 70e9),
    "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
    "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1640e9, 448e9),
    "a100": Chip(85_100_068_864, 312e12, 2039e9, 300e9, A100),
    "h100": Chip(84_929_347_584, 989e12, 3352e9, 450e9, H100),
}
# How many devices, and how they are laid out. As Google names them, v3 to v5p count
# cores; v4 and v5p show two of them as one device.
FLAT = {"1": "1x1", "4": "2x2", "8": "2x4", "16": "4x4", "32": "4x8", "64": "8x8"}
FLAT |= {"128": "8x16", "256": "16x16"}
CUBE = {"8": "2x2x1", "16": "2x2x2", "32": "2x2x4", "64": "2x4x4", "128": "4x4x4"}
CUBE |= {"256": "4x4x8", "512": "4x8x8", "1024": "8x8x8", "2048": "8x8x16"}
SHAPES = {
    "v3": {"8": "2x2", "32": "4x4"},
    "v4": CUBE,
    "v5e": FLAT,
    "v5p": CUBE,
    "v6e": FLAT,
}


def _all() -> dict[str, Topology]:
    found = {}
    for kind, shapes in SHAPES.items():
        for count, shape in shapes.items():
            bounds = tuple(map(int, shape.split("x")))
            options = {
                "topology_name": f"{kind}:{shape}",
                # All in one host: a program is the same, and easier to describe.
                "chips_per_host_bounds": (*bounds, 1)[:3],
            }
            if kind == "v4":
                options["chip_config_name"] = "megacore"
            found[f"{kind}-{count}"] = Topology(CHIPS[kind], "tpu", options)
    for kind in ("a100", "h100"):
        for count in (1, 2, 4, 8):
            options = {
                "target_config": CHIPS[kind].description,
                "topology": f"1x1x{count}",
            }
            found[f"{kind}-{count}"] = Topology(CHIPS[kind], "cuda", options)
    return found


TOPOLOGIES = _all()


def described_devices(name: str) -> list[jax.Device]:
    """Returns devices for which programs can be compiled, not run.

    Args:
      name: a key of `TOPOLOGIES`, such as 'v5e-8' or 'h100-4'.

    Raises:
      UserError: an unknown name, or the compiler is not installed or does not answer.
    """
    if name not in TOPOLOGIES:
        raise UserError(
            f"--config.topology={name!r}: choose one of {', '.join(TOPOLOGIES)}"
        )
    topology = TOPOLOGIES[name]
    extra, module = COMPILERS[topology.platform]
    missing = (
        f"the compiler for {name} is not installed: pip install '.[{extra}]', in an "
        "environment of its own"
    )
    try:
        if find_spec(module) is None:
            raise UserError(missing)
    except ModuleNotFoundError as error:
        raise UserError(missing) from error
    # Before the compilers are loaded. JAX looks for no GPU or TPU, which would end in an
    # error or a warning where there is none.
    jax.config.update("jax_platforms", "cpu")
    for variable, value in LOADING.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(
            platform=topology.platform, **topology.options
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"the compiler for {name} does not start: {line}") from error
    return list(description.devices)
