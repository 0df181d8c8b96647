"""Tests that values pass between processes unchanged, and none of them is run."""

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from invariance_propagation.devices.packing import pack, unpack


class Pair(NamedTuple):
    one: Any
    two: Any


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        2**70,
        0.1,
        -0.0,
        math.inf,
        "text, \udcff and \n",
        [],
        {},
        (),
        [1, [2.5, None], {"dict": [], "array": (1, "x")}],
        {"a": {"b": ("c", False)}},
    ],
)
def test_plain_values_come_back(value: Any) -> None:
    found = unpack(pack(value))
    assert found == value and type(found) is type(value)
    assert repr(found) == repr(value)


def test_arrays_come_back_to_the_bit() -> None:
    random = np.random.default_rng(0)
    arrays = [
        random.normal(size=(3, 5)).astype(np.float32),
        np.array([np.nan, -0.0, np.inf]),
        random.integers(9, size=(4, 2)).T,
        np.zeros((0, 7), np.int32),
        np.array(3, np.int64),
        np.array([True, False]),
        random.normal(size=4).astype(ml_dtypes.bfloat16),
        np.array("facts"),
    ]
    found = unpack(pack({"a": arrays, "number": np.float32(0.1)}))
    for array, other in zip(found["a"], arrays, strict=True):
        assert (array.dtype, array.shape) == (other.dtype, other.shape)
        assert array.tobytes() == other.tobytes()
        assert array.flags.writeable
    assert found["number"] == np.float32(0.1)
    assert type(found["number"]) is np.float32


def test_a_named_tuple_becomes_a_tuple() -> None:
    assert unpack(pack(Pair(1, Pair("x", None)))) == (1, ("x", None))


@pytest.mark.parametrize(
    "value", [object(), {1: "x"}, {"a": [print]}, np.array([print], object), b"bytes"]
)
def test_what_would_need_code_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be packed"):
        pack(value)
