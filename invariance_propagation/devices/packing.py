"""From facts and arrays to bytes and back, which runs no code of whoever sent them."""

import json
import struct
from typing import Any

import numpy as np

HEAD = struct.Struct(">Q")
PLAIN = (str, int, float, type(None))  # a bool is an int


def pack(value: Any) -> bytes:
    """Puts plain values into bytes: a header of JSON, then the arrays as they lie.

    Args:
      value: None, a bool, number, text, NumPy array or NumPy number, or a list, tuple or
        dict of such; the keys of a dict are text. A named tuple becomes a tuple.

    Raises:
      TypeError: something else is in it.
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
    """The reverse of `pack`."""
    start = HEAD.size
    (length,) = HEAD.unpack(content[:start])
    header = json.loads(content[start : start + length])
    place = start + length

    def build(told: Any) -> Any:
        nonlocal place
        if isinstance(told, list):
            return [build(x) for x in told]
        if not isinstance(told, dict):
            return told
        ((kind, inner),) = told.items()
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
