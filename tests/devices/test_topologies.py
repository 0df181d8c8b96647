"""Devices that are not here: their names, and what is said without their compiler."""

import importlib.util
import re

import pytest

from invariance_propagation.cli.usage import TOPOLOGIES as LISTED
from invariance_propagation.devices import topologies
from invariance_propagation.errors import UserError


def test_help_lists_every_topology() -> None:
    names = set()
    for kinds, text in LISTED.items():
        counts = re.findall(r"\b\d+\b", text.partition(" (")[0])
        names |= {f"{kind}-{n}" for kind in kinds.split(", ") for n in counts}
    assert names == set(topologies.TOPOLOGIES)


def test_an_unknown_name_is_refused_with_the_list() -> None:
    with pytest.raises(UserError, match=r"topology='v5e-3'.* v5e-4, v5e-8, .*h100-8"):
        topologies.described_devices("v5e-3")


@pytest.mark.parametrize(
    ("name", "extra"), [("v5e-8", "plan-tpu"), ("h100-1", "plan-cuda")]
)
def test_a_compiler_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setattr(topologies, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"pip install .*\[{extra}\]"):
        topologies.described_devices(name)
    assert importlib.util.find_spec("jax")  # the rest of the program still imports


def test_a_gpu_has_the_memory_that_its_compiler_is_told() -> None:
    for name, chip in topologies.CHIPS.items():
        if chip.description is not None:
            told = re.search(r"device_memory_size: (\d+)", chip.description)
            assert int(told[1]) == chip.memory, name
