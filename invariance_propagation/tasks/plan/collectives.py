"""Reads from a compiled program what its devices send one another."""

import math
import re
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# "%x = (f32[8]{0}, f32[16]{0}) all-gather-start(%y), ..., op_name="...", without the name.
INSTRUCTION = re.compile(
    rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\((.*?)\)"
    r"(?:.*?op_name=\"([^\"]*)\")?"
)
ARRAY = re.compile(r"\b[a-z]+\d+\[[\d,]*\]")
BITS = re.compile(r"[a-z]+(\d+)")


class Collective(NamedTuple):
    """Holds what one collective yields on each device.

    Attributes:
      kind: one of `KINDS`.
      arrays: dtype and shape of each result, such as 'f32[8,128]'.
      num_bytes: of all results.
      origin: the JAX operation that it comes from; '' if the program does not say.
    """

    kind: str
    arrays: tuple[str, ...]
    num_bytes: int
    origin: str

    @property
    def is_in_loop(self) -> bool:
        """Returns whether it runs once in each round of a loop."""
        return "while" in self.origin


def collectives_of(program: str) -> list[Collective]:
    """Lists the collectives of an optimised HLO program, given as text."""
    found = []
    for result, kind, begun, arguments, origin in INSTRUCTION.findall(program):
        arrays = ARRAY.findall(result)
        if begun and result.startswith("(") and kind != "all-reduce":
            # One that is only begun yields its arguments, its results, and its state.
            count = arguments.count("%") or 1
            arrays = arrays[count : 2 * count]
        found.append(Collective(kind, tuple(arrays), sum(map(_bytes, arrays)), origin))
    return found


def sent_by(program: str) -> dict[str, int]:
    """Adds up the bytes of collectives by kind, largest first.

    A collective inside of a loop counts once.
    """
    found = dict.fromkeys(KINDS, 0)
    for collective in collectives_of(program):
        found[collective.kind] += collective.num_bytes
    return {
        kind: found[kind] for kind in sorted(found, key=found.get)[::-1] if found[kind]
    }


def size_of(array: str) -> int:
    """Returns the number of elements of an array such as 'f32[8,128]'."""
    shape = array[array.index("[") + 1 : -1]
    return math.prod(int(x) for x in shape.split(",") if x)


def _bytes(array: str) -> int:
    return size_of(array) * max(8, int(BITS.match(array)[1])) // 8
