"""An option of a view that is out of its range is one line that names the flag."""

import math
from typing import Any

import pytest

from invariance_propagation.data.views.ranges import check_statistics, check_view
from invariance_propagation.errors import UserError

GOOD = {
    "size": 8,
    "crop_scale": (0.2, 1.0),
    "crop_ratio": (0.75, 1.3),
    "rotation": 15.0,
    "shear": 0.3,
    "stretch": 0.2,
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "jitter_probability": 0.8,
    "grayscale": 0.2,
    "blur": 0.5,
    "blur_sigma": (0.1, 2.0),
    "solarize": 0.2,
    "jitter_first": True,
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.2, 0.2),
}
BAD = {
    "size": (-1, 0, 10**9),
    "crop_scale": ((0, 0), (0.5,), (1.0, 0.5), (0.5, 2), (math.nan, 1), (-1, 1)),
    "crop_ratio": ((), (0, 1), (1,), (2, 1), (1, math.inf), (1, math.nan)),
    "rotation": (-1, 1e30, math.nan),
    "shear": (-0.1, 1e30, math.nan),
    "stretch": (-0.1, 1e30, math.nan),
    "flip": (-0.1, 1.1, math.nan),
    "jitter": ((0.4,), (0.4, 0.4, 0.4), (-1, 0, 0, 0), (0, 0, 0, 0.6), (math.nan,) * 4),
    "jitter_probability": (2,),
    "grayscale": (2,),
    "blur": (2,),
    "blur_sigma": ((), (1,), (0, 1), (2, 1), (1, math.inf)),
    "solarize": (-1,),
    "mean": ((0.5, math.nan, 0), (math.inf, 0, 0)),
    "std": ((0.2, 0, 0.2), (0, 0, 0), (-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1)),
}


def test_good_options_pass() -> None:
    check_view(GOOD)
    check_view(GOOD | {"crop_scale": (), "jitter": ()})
    check_view({name: GOOD[name] for name in ("size", "crop_scale")})
    assert set(BAD) == set(GOOD) - {"jitter_first"}


@pytest.mark.parametrize("section", ["augment", "views.small"])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD for value in BAD[name]]
)
def test_a_bad_option_is_named_by_its_flag(name: str, value: Any, section: str) -> None:
    with pytest.raises(UserError, match=rf"^--config\.{section}\.{name}=.*: .*"):
        check_view(GOOD | {name: value}, section=section)


def test_statistics_name_themselves_alone() -> None:
    with pytest.raises(UserError, match=r"^std=\(0,\): give numbers above 0"):
        check_statistics((0.5,), (0,))
