"""Files of weights: which they are, what is in them, and what stands beside them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from invariance_propagation.errors import UserError
from invariance_propagation.paths import local, reason

SUFFIXES = (".safetensors", ".npz")


def is_weights(path: str | Path) -> bool:
    """Whether this names a file of weights, of no run."""
    return Path(path).suffix in SUFFIXES


def input_of(path: str | Path) -> dict[str, Any] | None:
    """How images are given to an exported network: size, mean, std; None if unsaid.

    It stands in the .json file that an export leaves beside its own.
    """
    path = local(path, key="checkpoint")
    try:
        beside = path.with_name(path.name + ".json").read_text(encoding="utf-8")
        given = json.loads(beside)["input"]
        return {name: given[name] for name in ("size", "mean", "std")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by name, of a .safetensors or .npz file.

    Raises:
      UserError: there is no such file, it is of another kind, or damaged.
    """
    path = local(path, key="checkpoint")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if not is_weights(path):
        raise UserError(f"{path}: weights are read from {' and '.join(SUFFIXES)} files")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        need("safetensors")
        from safetensors.numpy import load_file

        return load_file(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}): is it whole?") from error


def need(*modules: str) -> None:
    """Raises UserError unless these parts of the extra `export` are installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install '.[export]'")
