"""Runs of the same settings share their compiled step."""

from collections.abc import Iterator

import pytest

from invariance_propagation.train import pretrain
from tests.tiny_run import build_once


@pytest.fixture(autouse=True, scope="package")
def one_step_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "build", build_once)
        yield
