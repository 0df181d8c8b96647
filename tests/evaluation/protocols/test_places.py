"""Places365 by TFDS and Places205 in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.protocols import find_protocol
from tests.evaluation.protocols.conftest import EXAMPLES
from tests.evaluation.protocols.jobs import measured


def test_places365_is_read_by_tfds(stored: Path, request_of) -> None:
    ((job,),) = find_protocol("places").jobs(request_of(tfds_folder=str(stored)))
    assert job.bench.facts["train"] == EXAMPLES
    assert job.bench.facts["held_out"] == EXAMPLES // 4
    assert set(measured(job)) == {"top1", "top5"}


def store_places(root: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for kind in ("abbey", "zoo"):
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(256, size=(12, 14, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{i}.png")


def test_places205_is_a_folder(tmp_path: Path, request_of) -> None:
    store_places(tmp_path / "places")
    ((job,),) = find_protocol("places").jobs(
        request_of(places=str(tmp_path / "places"))
    )
    assert job.bench.facts == {"name": "places", "train": 16, "held_out": 6} | {
        "classes": 2,
        "digest": job.bench.facts["digest"],
    }
    assert job.bench.dataset.train.labels.tolist() == [0] * 8 + [1] * 8
    assert job.bench.dataset.held_out.ids[3] == "zoo/0.png"
    assert job.bench.dataset.held_out.labels.tolist() == [0] * 3 + [1] * 3
    assert set(measured(job)) == {"top1"}
    (tmp_path / "places" / "val" / "zoo").rename(tmp_path / "places" / "val" / "zooo")
    with pytest.raises(UserError, match="the same classes, zoo is in one"):
        next(find_protocol("places").jobs(request_of(places=str(tmp_path / "places"))))
