"""Reads files of weights, and the description that an export writes beside them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from invariance_propagation.errors import UserError
from invariance_propagation.files.archives import holds_pickle, open_arrays, open_file
from invariance_propagation.files.paths import reason

SUFFIXES = (".safetensors", ".npz")
# Suffixes that PyTorch and others give to pickles.
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")
# Of an unpacked .npz: twenty times a ResNet-50.
MAX_BYTES = 2**31


def is_weights(path: Path) -> bool:
    """Returns whether a path names a file of weights, and not a run."""
    return path.suffix in SUFFIXES


def input_of(path: Path) -> dict[str, Any] | None:
    """Returns the input that an exported network expects: size, mean and std.

    Reads it from the .json next to the file; returns None if that does not say.
    """
    try:
        with open_file(path.with_name(path.name + ".json")) as file:
            description = json.load(file)["input"]
        return {name: description[name] for name in ("size", "mean", "std")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .safetensors or .npz file, by name.

    Raises:
      UserError: the file does not exist, is of another kind, or is damaged.
    """
    check_no_pickle(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if not is_weights(path):
        raise UserError(f"{path}: weights are read from {' and '.join(SUFFIXES)} files")
    try:
        if path.suffix == ".npz":
            with open_arrays(path, max_bytes=MAX_BYTES) as arrays:
                return {name: arrays[name] for name in arrays.names}
        need("safetensors")
        from safetensors.numpy import load_file

        return load_file(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}): is it whole?") from error


def check_no_pickle(path: Path) -> None:
    """Raises UserError if a file is a pickle, whatever its name."""
    if path.is_file() and (path.suffix in PICKLES or holds_pickle(path)):
        raise UserError(
            f"{path} cannot be read (it is a pickle, as PyTorch saves them, which could "
            f"run code): weights are read from {' and '.join(SUFFIXES)} files, such as "
            "safetensors.torch.save_file(torch.load(PATH, weights_only=True), "
            "'weights.safetensors') writes"
        )


def need(*modules: str) -> None:
    """Raises UserError unless these packages of the extra `export` are installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install '.[export]'")
