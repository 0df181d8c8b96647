"""Cards: what they hold, how they are kept, and which of them share a table."""

import json
from pathlib import Path

import pytest

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.cards import (
    FOLDER,
    mean_and_deviation,
    read_card,
    table,
    write_card,
)
from tests.made_card import make_card


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    card = make_card()
    path = write_card(card, tmp_path)
    assert path == tmp_path / FOLDER / card.name()
    assert list(path.parent.iterdir()) == [path]
    found = read_card(path)
    assert found.kind() == card.kind() and found.name() == card.name()
    assert found.scores == card.scores
    assert found.checkpoint == card.checkpoint and found.made == card.made
    top1 = json.loads(path.read_text())["scores"]["top1"]
    assert top1["mean"] == pytest.approx(0.91)
    assert top1["deviation"] == pytest.approx(0.01 * 2**0.5)
    assert "labels were not used to choose" in json.loads(path.read_text())["selection"]


def test_one_seed_has_no_deviation() -> None:
    assert mean_and_deviation([0.5]) == (0.5, None)


def test_seeds_are_added_one_by_one(tmp_path: Path) -> None:
    card = make_card(scores={})
    assert card.seeds() == []
    card = card.with_scores(2, {"top1": 0.5, "top5": 0.75}).with_scores(
        0, {"top1": 0.25, "top5": 1.0}
    )
    assert card.seeds() == [0, 2]
    assert card.scores["top1"] == {"2": 0.5, "0": 0.25}
    # A seed counts once all of its scores are known.
    assert card._replace(scores=card.scores | {"top5": {"0": 1.0}}).seeds() == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "semi"},
        {"version": 2},
        {"settings": make_card().settings | {"options": {"epochs": 4}}},
        {"data": make_card().data | {"digest": "other"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_unlike_cards_share_neither_name_nor_table(changes: dict) -> None:
    card, other = make_card(), make_card(**changes)
    assert card.name() != other.name()
    with pytest.raises(UserError, match="cannot share a column") as caught:
        table([card, other])
    assert next(iter(changes)) in str(caught.value)


def test_other_weights_are_another_card_in_the_same_table() -> None:
    card, other = make_card(), make_card(checkpoint={"digest": "ef", "step": 7})
    assert card.name() != other.name()
    assert table([card, other]).count("step 7") == 2


def test_a_card_that_was_read_has_the_kind_of_one_that_was_not(tmp_path: Path) -> None:
    card = make_card()  # with a tuple, which JSON makes a list
    assert table([card, read_card(write_card(card, tmp_path))]).count("step 7") == 2


def test_the_table_in_percent() -> None:
    pixels = make_card(
        encoder="raw pixels", checkpoint={}, scores={"top1": {"0": 0.75}}
    )
    assert table([make_card(), pixels], {"top1": 0.713}).splitlines() == [
        "linear on digits: 1,347 images with labels, 450 to test, 10 classes; "
        "in percent",
        "                      top1           top5",
        "  step 7      91.00 ± 1.41  100.00 ± 0.00",
        "  raw pixels         75.00              -",
        "  published           71.3              -",
    ]


def test_a_wide_table_is_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {f"{i} a class": {"0": i / 100} for i in (1, 2, 4, 8)}
    monkeypatch.setenv("COLUMNS", "40")
    assert table([make_card(scores=scores)]).splitlines()[1:] == [
        "          1 a class  2 a class",
        "  step 7       1.00       2.00",
        "          4 a class  8 a class",
        "  step 7       4.00       8.00",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    assert len(table([make_card(scores=scores)]).splitlines()) == 3


def test_a_column_says_its_number_of_neighbours() -> None:
    settings = make_card().settings | {"options": {"num_neighbors": 7}}
    _, columns, _ = table([make_card(settings=settings)]).splitlines()
    assert columns.split() == ["top1,", "K", "=", "7", "top5,", "K", "=", "7"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"scores": {"top1": 3}}'])
def test_what_is_no_card_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "linear-x.json"
    path.write_text(content)
    with pytest.raises(UserError, match="linear-x.json is no evaluation card"):
        read_card(path)


def test_remarks_stand_below_the_table() -> None:
    settings = make_card().settings | {"remarks": ["two classes only"]}
    alike = {"0": {"remarks": ["all alike"]}, "1": {"remarks": ["all alike"]}}
    card = make_card(settings=settings)
    other = make_card(settings=settings, encoder="random encoder", made=alike)
    assert table([card, other]).splitlines()[-2:] == [
        "  note: two classes only",
        "  note: random encoder: all alike",
    ]
    assert card.name() != make_card().name()
    with pytest.raises(UserError, match="settings.remarks"):
        table([card, make_card()])
