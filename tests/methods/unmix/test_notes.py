"""Names of keys in messages, notes around those of the inner method, configs."""

import pytest

from configs import digits
from invariance_propagation.errors import UserError
from invariance_propagation.methods import (
    make_from,
)
from tests.methods.unmix.made import (
    INVP,
    problem_of,
    wrap,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"global_probability": 1.5}, r"^method\.global_probability=1\.5: set it from"),
        ({"global_probability": -0.1}, r"^method\.global_probability=-0\.1"),
        ({"alpha": 0.0}, r"^method\.alpha=0\.0: set it above 0"),
        ({"alpha": float("nan")}, r"^method\.alpha=nan"),
        ({"beta": 1.0}, r"unknown config key method\.beta"),
        ({"inner": {"name": "moco"}}, r"^method\.inner\.name='moco': choose one of"),
        ({"inner": {}}, r"^method\.inner\.name='': choose one of"),
        ({"inner": INVP | {"alpha": 1}}, r"unknown config key method\.inner\.alpha"),
        (
            {"inner": INVP | {"temperature": 0}},
            r"^method\.inner\.temperature=0: set it above 0",
        ),
        (
            {"inner": INVP | {"start": "auto", "ramp": "gaussian"}},
            r"^method\.inner\.ramp='gaussian' leads up to method\.inner\.start_epoch: "
            r"set method\.inner\.start='epoch'",
        ),
        (
            {"inner": INVP | {"background_size": 99}},
            r"^method\.inner\.background_size=99, but",
        ),
    ],
)
def test_a_mistake_is_named_by_its_key(changes: dict, words: str) -> None:
    inner = changes.pop("inner", INVP)
    with pytest.raises(UserError, match=words):
        wrap(inner, **changes)


def test_a_wrapper_in_a_wrapper_names_its_keys_too() -> None:
    twice = {"name": "unmix", "global_probability": 0.5, "alpha": -1.0, "inner": INVP}
    with pytest.raises(UserError, match=r"^method\.inner\.alpha=-1"):
        wrap(twice)
    twice |= {"alpha": 1.0, "inner": INVP | {"temperature": -1}}
    with pytest.raises(UserError, match=r"^method\.inner\.inner\.temperature=-1"):
        wrap(twice)


def test_sentences_name_the_keys_of_the_inner_section() -> None:
    notes = wrap(INVP | {"start_epoch": 9}).notes
    (warning,) = notes.warnings(5)
    assert "(method.inner.start_epoch)" in warning
    assert "lower method.inner.start_epoch, or raise train.epochs" in warning
    before = {"epoch": 0, "neighbor_overlap": 0.0, "propagation_weight": 0.0}
    row = {"epoch": 1, "propagation_weight": 1.0}
    _, warning = notes.notices(row, before)
    assert "--config.method.inner.start_epoch above 1" in warning
    assert "--config.method.inner.start=auto" in warning
    alone = make_from(INVP | {"start_epoch": 9}, problem_of(wrap()), key="method")
    assert "(method.start_epoch)" in alone.notes.warnings(5)[0]


def test_the_notes_are_those_of_the_inner_method_and_more() -> None:
    method = wrap()
    inner = make_from(INVP, problem_of(method), key="method").notes
    notes = method.notes
    assert (
        notes.about == f"mixtures of images for invariance_propagation; {inner.about}"
    )
    assert notes.panels[:-1] == inner.panels
    assert set(notes.panels[-1].series) == {"clean", "mixed"}
    row = {"instance": 1.0, "propagation": 2.0, "propagation_weight": 0.5, "mixed": 4.5}
    assert notes.brief(row) == [*inner.brief(row), "mixtures 4.500"]
    rows = [{"epoch": 0, "propagation_weight": 0.0}]
    for weight, text in ((0, "off"), (1, "not started")):
        options = {"name": "unmix", "inner": INVP | {"propagation_weight": weight}}
        assert notes.outcome(rows, {}, options) == {"propagation": text}


def test_a_config_wraps_any_method() -> None:
    config = digits.get_config("unmix+invariance_propagation")
    assert config == digits.get_config("unmix")
    assert config.method.inner.num_hops == 3
    assert config.method.inner.temperature == 0.3  # what digits.py says of it
    assert config.optimizer.learning_rate == 0.2
    config = digits.get_config("unmix+tests.toys:clustering")
    assert config.method.inner.to_dict() == {"name": "tests.toys:clustering"}
