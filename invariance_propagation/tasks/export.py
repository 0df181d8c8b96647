"""Exports weights or memory of a run to a file that is checked before it gets its name.

FILE.json beside the file says where it comes from, how its images are normalised, what
was compared, and how large the largest difference was.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm

from invariance_propagation.errors import (
    TrainingError,
    UserError,
    check_choice,
    printable,
)
from invariance_propagation.files.atomic import removed_at_end
from invariance_propagation.files.paths import check_file, local, not_writable
from invariance_propagation.models import Encoder
from invariance_propagation.models.onnx_graph import onnx_model
from invariance_propagation.models.torchvision import to_torchvision
from invariance_propagation.phases import phase
from invariance_propagation.signals import not_now
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.store.reading import Source, find_source
from invariance_propagation.store.restore import (
    Restored,
    backbone_of,
    float32,
    restore_encoder,
)
from invariance_propagation.store.weights import need, read_weights
from invariance_propagation.version import __version__

PARTS = {
    "backbone": ("safetensors", "npz", "onnx"),
    "encoder": ("safetensors", "npz", "onnx"),
    "memory": ("npz",),
}
LIBRARIES = ("jax", "flax", "numpy", "safetensors", "onnx", "onnxruntime")
# The largest difference allowed, as a share of the largest value if that is above 1.
ALLOWED = 1e-4


def export(*, checkpoint: str, what: str, format: str, output: str) -> Path:
    """Writes one file, checks it, and describes it in a JSON file beside it.

    Args:
      checkpoint: a run's workdir, or the folder of one step.
      what: 'backbone', 'encoder' (with its head) or 'memory' (its arrays and ids).
      format: 'safetensors', 'npz' or 'onnx'; '' for the first format of `what`.
      output: the file to write; '' for a file in the workdir named by part and step.

    Returns:
      The path of the file.

    Raises:
      UserError: bad input; nothing has been written.
      TrainingError: the checkpoint cannot be read, or the file computes something else
        than the checkpoint does, in which case it is not kept.
    """
    if not checkpoint:
        raise UserError("--config.checkpoint is missing: name a run's workdir")
    check_choice("what", what, PARTS)
    format = format or PARTS[what][0]
    if format not in PARTS[what]:
        choices = ", ".join(PARTS[what])
        raise UserError(
            f"format={format!r}: {what} is written as {choices}; set --config.format to "
            "one of them"
        )
    source = find_source(checkpoint)
    if output and Path(output).suffix != f".{format}":
        raise UserError(
            f"output={output}: name it .{format}, or set --config.format to fit"
        )
    path = _output_path(source, output, "file")
    if output or path.parent.is_dir():  # else there is no run, as restoring it will say
        check_file(path, key="--config.output")
    if what == "memory":
        return _export_memory(source, output)
    need("safetensors", "onnx", "onnxruntime")
    return _export_network(source, what, format, output)


def _export_network(source: Source, what: str, format: str, output: str) -> Path:
    with phase(f"reading {printable(source.name)}"):
        restored = restore_encoder(source.path)
    if what == "encoder" and not isinstance(restored.encoder, Encoder):
        raise UserError(
            f"{source.name} has heads that only its method knows, which cannot be "
            "exported: set --config.what=backbone"
        )
    part = backbone_of(restored) if what == "backbone" else restored
    weights = to_torchvision({"params": part.params, "batch_stats": part.batch_stats})
    about = {
        "what": what,
        "network": restored.config["encoder"] | {"channels": restored.channels},
        "input": _input(restored.config["augment"]),
        "source": _source(restored.facts)
        | {"backbone": backbone_of(restored).digest()},
    }
    notes = {"invariance_propagation": json.dumps(about)}
    path = _output_path(source, output, f"{what}-{restored.step}.{format}")
    with _draft(path) as draft:
        with phase(f"writing the {what} of step {restored.step} as {format}"):
            _write_weights(draft, weights, notes)
        with phase("comparing the file in ONNX Runtime with the checkpoint in Flax"):
            check = _compare(restored, draft)
        _put_in_place(draft, path, about | {"check": check})
    print(
        f"{printable(str(path))}: {what} of step {restored.step}; the largest difference from the "
        f"checkpoint's is {check['largest_difference']:.1e}"
    )
    return path


def _export_memory(source: Source, output: str) -> Path:
    with phase(f"reading {printable(source.name)}"):
        memory = restore_memory(source.path)
    arrays = dict(memory.arrays)
    if not arrays:
        raise UserError(
            f"the method of {source.name} has no memory: there is nothing to export"
        )
    if memory.sample_ids is not None:
        arrays["sample_ids"] = np.array(memory.sample_ids)
    step = memory.facts["step"]
    path = _output_path(source, output, f"memory-{step}.npz")
    with _draft(path) as draft:
        with phase(f"writing {len(arrays)} arrays"):
            _write_npz(draft, arrays)
        with phase("reading it back to compare"):
            read = read_weights(draft)
        if not all(np.array_equal(read[name], x) for name, x in arrays.items()):
            raise TrainingError(
                f"{path}: other arrays were read back than written; check the disk and "
                "export again"
            )
        check = {"compared": "arrays read back from this file with the checkpoint's"}
        about = {"what": "memory", "source": _source(memory.facts), "check": check}
        _put_in_place(draft, path, about)
    count = memory.facts["num_examples"]
    print(f"{printable(str(path))}: memory of step {step}, {count:,} images")
    return path


def _write_weights(
    path: Path, weights: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
    if path.suffix == ".npz":
        _write_npz(path, weights)
    elif path.suffix == ".onnx":
        path.write_bytes(onnx_model(weights, notes=notes).SerializeToString())
    else:
        from safetensors.numpy import save_file

        # Tells readers that the axes are in PyTorch's order.
        save_file(dict(weights), path, metadata={"format": "pt", **notes})


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def _compare(restored: Restored, path: Path) -> dict[str, Any]:
    """Runs the checkpoint in Flax and the file in ONNX Runtime, on the same images.

    A file of weights is first turned into an ONNX model, without the help of Flax.

    Returns:
      JSON that describes the comparison.

    Raises:
      TrainingError: the results differ.
    """
    size = restored.config["augment"]["size"]
    shape = (2, restored.channels, size, size)
    images = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    runs = (
        lambda: _onnx_outputs(path, images),
        lambda: flax_outputs(restored, images),
    )
    bar = tqdm.tqdm(runs, unit="run", disable=None, leave=False)
    theirs, ours = (run() for run in bar)
    # np.max keeps NaN; max() might skip it.
    difference = float(
        np.max([np.abs(x - ours[name]).max() for name, x in theirs.items()])
    )
    largest = max(float(np.abs(ours[name]).max()) for name in theirs)
    allowed = ALLOWED * max(1.0, largest)
    if not difference <= allowed:
        raise TrainingError(
            f"the file's {' and '.join(theirs)} differ from the checkpoint's by "
            f"{difference:.1e}, {allowed:.0e} is allowed: the file is not kept; please "
            "report this"
        )
    return {
        "compared": "the checkpoint in Flax with this file in ONNX Runtime, float32",
        "images": f"normal, {list(shape)}, of numpy.random.RandomState(0)",
        "outputs": list(theirs),
        "largest_difference": difference,
        "allowed": allowed,
        "largest_value": largest,
    }


def _onnx_outputs(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a file on images float32 [n, C, H, W]; returns its outputs by name."""
    import onnxruntime

    if path.suffix == ".onnx":
        content = path.read_bytes()
    else:
        content = onnx_model(read_weights(path), notes={}).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # waiting threads would spin
    session = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def flax_outputs(restored: Restored, images: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a checkpoint on images float32 [n, C, H, W]; returns its outputs by name."""
    encoder = float32(restored.encoder)
    variables = {"params": restored.params, "batch_stats": restored.batch_stats}
    # Without this, a GPU or TPU computes float32 in fewer bits.
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda *args: encoder.apply(*args, train=False))
        outputs = run(variables, images.transpose(0, 2, 3, 1))
    return jax.device_get(outputs)._asdict()


def _input(augment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "images": "float32 [batch, channels, height, width], (x / 255 - mean) / std",
        **{name: augment[name] for name in ("size", "mean", "std")},
    }


def _source(facts: Mapping[str, Any]) -> dict[str, Any]:
    names = ("dataset", "num_examples", "digest", "step")
    return {name: facts[name] for name in names}


def _output_path(source: Source, output: str, name: str) -> Path:
    if source.workdir is None:
        raise UserError(
            f"{source.name} is a file of weights, and an export is made from a run: "
            "name the run's workdir"
        )
    path = local(output, key="output") if output else source.workdir / name
    if path.is_dir():
        raise UserError(f"output={path} is a folder: name a file")
    return path


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Yields a name to write to; the file is removed unless it is put in place."""
    # The suffix decides how the file is written.
    draft = path.with_stem(f"{path.stem}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with removed_at_end(draft), removed_at_end(draft.with_suffix(".json")):
            yield draft
    except OSError as error:
        raise not_writable(path, error, key="--config.output") from error


def _put_in_place(draft: Path, path: Path, about: Mapping[str, Any]) -> None:
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    versions = {"invariance_propagation": __version__}
    for name in LIBRARIES:
        # Exporting a memory does not need the packages of the extra `export`.
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    about = {"file": path.name, "sha256": digest, **about, "versions": versions}
    beside = draft.with_suffix(".json")
    beside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    with not_now():
        os.replace(beside, path.with_name(path.name + ".json"))
        os.replace(draft, path)
