"""Config sections as keyword arguments: what fits, and the errors for what does not."""

import math
from typing import Any, NamedTuple

import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import digits
from invariance_propagation import settings
from invariance_propagation.errors import UserError
from invariance_propagation.models import make_encoder
from invariance_propagation.train.build import build


def blend(*, color: str, amount: float = 0.5, num_examples: int = 0) -> dict[str, Any]:
    return dict(color=color, amount=amount, num_examples=num_examples)


class Options(NamedTuple):
    color: str
    amount: float


def make_config(**keys: Any) -> ConfigDict:
    return ConfigDict({"paint": keys, "other": {"colour": "green"}}).lock()


@pytest.mark.parametrize("kind", [ConfigDict, dict])
def test_a_section_is_the_keyword_arguments(kind: type) -> None:
    config = kind({"paint": {"color": "red", "amount": 0.1}})
    expected = dict(color="red", amount=0.1)
    assert settings.options(blend, "paint", config) == expected
    assert settings.call(blend, "paint", config) == expected | {"num_examples": 0}


def test_what_has_a_default_may_be_left_out() -> None:
    config = make_config(color="red")
    assert settings.options(blend, "paint", config) == dict(color="red")
    assert settings.call(blend, "paint", config)["amount"] == 0.5


def test_arguments_from_elsewhere() -> None:
    config = make_config(amount=0.1)
    result = settings.call(blend, "paint", config, color="blue", num_examples=7)
    assert result == dict(color="blue", amount=0.1, num_examples=7)
    bound = ("color", "num_examples")
    assert settings.options(blend, "paint", config, bound=bound) == dict(amount=0.1)


def test_the_function_may_be_a_named_tuple() -> None:
    config = make_config(color="red", amount=0.1)
    assert settings.call(Options, "paint", config) == Options("red", 0.1)
    with pytest.raises(UserError, match=r"paint\.amount is missing"):
        settings.call(Options, "paint", make_config(color="red"))


def test_the_options_are_a_copy() -> None:
    config = make_config(color="red")
    settings.options(blend, "paint", config)["color"] = "blue"
    assert config.paint.color == "red"


def test_a_misspelt_key_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        settings.call(blend, "paint", make_config(color="red", amuont=0.1))
    message = str(error.value)
    assert message == "unknown config key paint.amuont: did you mean paint.amount?"


def test_a_key_like_no_other_points_to_the_list() -> None:
    with pytest.raises(UserError) as error:
        settings.call(blend, "paint", make_config(color="red", zzz=0))
    assert str(error.value) == "unknown config key paint.zzz: see configs/default.py"


def test_a_misspelt_key_is_told_before_the_one_it_leaves_missing() -> None:
    with pytest.raises(UserError, match=r"paint\.colour: did you mean paint\.color\?"):
        settings.call(blend, "paint", make_config(colour="red"))


def test_a_section_may_not_set_what_comes_from_elsewhere() -> None:
    # Without the check it would be a TypeError: two values for one argument.
    config = make_config(color="red", num_examples=3)
    with pytest.raises(UserError, match=r"unknown config key paint\.num_examples"):
        settings.call(blend, "paint", config, num_examples=7)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError) as error:
        settings.call(blend, "paint", make_config(amount=0.1))
    message = str(error.value)
    assert "paint.color is missing" in message
    assert "configs/default.py" in message


def test_a_missing_section_is_named() -> None:
    with pytest.raises(UserError, match="varnish"):
        settings.call(blend, "varnish", make_config(color="red"))


def test_check_names() -> None:
    known = ("task", "seed", "parallel")
    settings.check_names([], known)
    settings.check_names(["seed", "task"], known)
    with pytest.raises(
        UserError, match=r"^unknown config key sede: did you mean seed\?$"
    ):
        settings.check_names(["task", "sede", "paralel"], known)
    with pytest.raises(UserError, match=r"did you mean seed\?"):
        settings.check_names(iter(["sede"]), list(known))
    with pytest.raises(UserError, match=r"key a\.sed: did you mean a\.seed\?"):
        settings.check_names({"sed": 1}, known, prefix="a.")


@pytest.mark.parametrize("value", [0, 0.0, False, "", (), 3, "x"])
def test_whatever_is_set_takes_the_place_of_a_value(value: Any) -> None:
    section = {"a": 120, "b": "left"}
    assert settings.override(section, {"a": value}) == {"a": value, "b": "left"}
    assert settings.override(section, {"a": None}) == section
    assert section == {"a": 120, "b": "left"}


@pytest.mark.parametrize(("over_all", "group"), [(True, 0), (False, None)])
def test_a_checkpoint_of_before_norm_group_is_read(over_all: bool, group) -> None:
    encoder = dict(digits.get_config().encoder)
    del encoder["norm_group"]
    stored = {"seed": 1, "encoder": encoder | {"cross_replica_norm": over_all}}
    config = settings.by_new_names(stored)
    assert config == {"seed": 1, "encoder": encoder | {"norm_group": group}}
    assert settings.call(make_encoder, "encoder", config).backbone.norm_group == 0
    assert settings.by_new_names(config) == config


@settings.keywords_of(Options)
def mix(*, num_examples: int, **options: Any) -> tuple[Options, int]:
    return Options(**options), num_examples


def test_options_of_a_named_tuple_are_checked_as_keywords() -> None:
    config = make_config(color="red", amount=0.1)
    mixed = settings.call(mix, "paint", config, num_examples=3)
    assert mixed == (Options("red", 0.1), 3)
    with pytest.raises(UserError, match="did you mean paint.color"):
        settings.call(mix, "paint", make_config(colour="red"), num_examples=3)
    with pytest.raises(UserError, match=r"paint\.amount is missing"):
        settings.call(mix, "paint", make_config(color="red"), num_examples=3)


@pytest.mark.parametrize("method", ["", "coke", "unmix+odc"])
def test_no_number_of_a_config_may_be_nan_or_infinite(method: str) -> None:
    """Comparisons with NaN are false, so a check that looks for bad values misses it."""
    config = digits.get_config(method)
    numbers = {
        name: value
        for name, value in flatten_dict(config.to_dict(), sep=".").items()
        if isinstance(value, float) or (isinstance(value, tuple) and value)
    }
    assert len(numbers) > 20
    for name, value in numbers.items():
        *sections, last = name.split(".")
        for bad in (math.nan, math.inf):
            changed = digits.get_config(method)
            section = changed
            for key in sections:
                section = section[key]
            with section.unlocked():
                section[last] = (bad, *value[1:]) if isinstance(value, tuple) else bad
            with pytest.raises(UserError, match=rf"\b{name}=.*: "):
                build(changed)


def test_a_schedule_takes_rising_milestones() -> None:
    for bad in ((-1, 5), (0, 5), (5, 5), (9, 5)):
        config = digits.get_config()
        config.optimizer.milestones = bad
        with pytest.raises(UserError, match=r"optimizer.milestones=\(.*rising order"):
            build(config)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
def test_a_seed_fits_into_32_bits(seed: int) -> None:
    config = digits.get_config()
    config.seed = seed
    with pytest.raises(UserError, match=f"seed={seed}: set it from 0 to 4294967295"):
        build(config)
