"""Packs facts and arrays into bytes; unpacking them runs no code of the sender."""

import json
import struct
from typing import Any

import numpy as np

HEAD = struct.Struct(">Q")
PLAIN = (str, int, float, type(None))  # a bool is an int


def pack(value: Any) -> bytes:
    """Packs plain values into bytes: a JSON header, then the bytes of the arrays.

    Args:
      value: None, a bool, number, text, NumPy array or NumPy number; or a list, tuple or
        dict of these. The keys of a dict are text. A named tuple becomes a plain tuple.

    Raises:
      TypeError: it holds something else.
    """
    arrays: list[np.ndarray] = []

    def describe(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                raise TypeError("an array of Python objects cannot be packed")
            arrays.append(np.ascontiguousarray(value))
            kind = "array" if isinstance(value, np.ndarray) else "number"
            return {kind: [str(value.dtype), value.shape]}
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, list):
            return [describe(x) for x in value]
        if isinstance(value, tuple):
            return {"tuple": [describe(x) for x in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": [[key, describe(x)] for key, x in value.items()]}
        raise TypeError(f"{type(value).__name__} cannot be packed")

    header = json.dumps(describe(value)).encode()
    return b"".join(
        [
            HEAD.pack(len(header)),
            header,
            *(x.reshape(-1).view(np.uint8) for x in arrays),
        ]
    )


def unpack(content: bytes) -> Any:
    """Returns the value that `pack` packed."""
    start = HEAD.size
    (length,) = HEAD.unpack(content[:start])
    header = json.loads(content[start : start + length])
    place = start + length

    def build(node: Any) -> Any:
        nonlocal place
        if isinstance(node, list):
            return [build(x) for x in node]
        if not isinstance(node, dict):
            return node
        ((kind, inner),) = node.items()
        if kind == "tuple":
            return tuple(build(x) for x in inner)
        if kind == "dict":
            return {key: build(x) for key, x in inner}
        array = np.empty(inner[1], inner[0])
        end = place + array.nbytes
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(
            memoryview(content)[place:end], np.uint8
        )
        place = end
        return array if kind == "array" else array[()]

    return build(header)
