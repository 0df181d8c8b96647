"""Evaluation from a checkpoint to its cards and tables, on digits."""

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from configs import default, embed
from configs.evaluate import get_config
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation import evaluate as module
from invariance_propagation.evaluation import subjects
from invariance_propagation.evaluation.cards import FOLDER, Card, read_card
from invariance_propagation.evaluation.evaluate import evaluate
from invariance_propagation.evaluation.protocols import (
    PROTOCOLS,
    semi,
    svm,
    transfer,
)
from invariance_propagation.evaluation.recipes import Finetune, Linear, changed
from invariance_propagation.store.reading import find_source
from invariance_propagation.store.restore import restore_backbone
from invariance_propagation.tasks.export import export
from tests.stored_run import store_run

NUM_TRAIN = 120
QUICK = {
    "num_devices": 2,
    "num_seeds": 2,
    "data.num_train": NUM_TRAIN,
    "linear.epochs": 2,
    "linear.batch_size": 32,
    "linear.milestones": (1,),
    "semi.epochs": 1,
    "semi.batch_size": 8,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    store_run(workdir, (7,))
    return workdir


def run(checkpoint: Path, protocols: str, **changes: Any) -> list[Card]:
    config = get_config()
    config.update_from_flattened_dict(QUICK | {"data.name": "digits"})
    config.checkpoint, config.protocols = str(checkpoint), protocols
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    arguments = config.to_dict()
    del arguments["task"]
    return evaluate(**arguments)


def scores_of(cards: list[Card], protocol: str) -> dict[str, dict]:
    return {card.encoder: card.scores for card in cards if card.protocol == protocol}


@pytest.fixture(scope="module", autouse=True)
def fewer_scores() -> Iterator[None]:
    """Each share takes a training step of ResNet-18 to compile."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(semi, "SHARES", (0.1,))
        patched.setattr(svm, "LOW_SHOT", (1, 4))
        patched.setattr(svm, "DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def all_of_digits(stored: Path) -> list[Card]:
    return run(stored, "knn,linear,semi,svm")


def test_every_protocol_has_its_rows(all_of_digits: list[Card], stored: Path) -> None:
    rows = ["step 7", "random encoder", "raw pixels"]
    for protocol in ("knn", "linear", "svm"):
        assert list(scores_of(all_of_digits, protocol)) == rows
    assert list(scores_of(all_of_digits, "semi")) == rows[:2]
    names = {card.name() for card in all_of_digits}
    assert {path.name for path in (stored / "cards").iterdir()} == names
    written = map(read_card, (stored / FOLDER).glob("*.json"))
    written = {card.name(): card.scores for card in written}
    assert written == {card.name(): card.scores for card in all_of_digits}


def test_seeds_are_counted_where_there_is_chance(all_of_digits: list[Card]) -> None:
    for card in all_of_digits:
        chance = card.protocol in ("linear", "semi") or "random" in card.encoder
        assert card.seeds() == ([0, 1] if chance else [0]), card.name()
        for by_seed in card.scores.values():
            assert all(0 <= value <= 1 for value in by_seed.values())
    semi = scores_of(all_of_digits, "semi")["step 7"]
    assert list(semi) == ["top1, 10%", "top5, 10%"]


def test_a_card_says_what_its_number_is_of(
    all_of_digits: list[Card], stored: Path
) -> None:
    card, random, pixels = all_of_digits[:3]
    digest = restore_backbone(stored).digest()
    assert card.checkpoint == {"digest": digest, "step": 7, "path": str(stored)}
    assert random.checkpoint == pixels.checkpoint == pixels.network == {}
    assert card.network == random.network
    assert card.network == {"depth": 18, "stem": "cifar", "width": 4, "channels": 1}
    assert card.settings["view"]["size"] == 8
    facts = {"name": "digits", "train": NUM_TRAIN, "held_out": 450, "classes": 10}
    assert card.data == facts | {"digest": card.data["digest"]}
    assert card.settings["view"]["crop"] == {"train": "whole", "held_out": "whole"}
    assert list(card.made) == list(card.scores["top1"])
    expected = {"commit", "versions", "machine", "date", "devices", "seconds"}
    assert expected <= card.made["0"].keys()


def rows_of_the_run() -> np.ndarray:
    """The digits that `data.num_train` draws for seed 0."""
    rows = np.arange(len(load_digits().target) - 450)
    return Split(rows, None).sample(NUM_TRAIN, seed=0).images


def test_raw_pixels_are_as_scikit_learn_has_them(all_of_digits: list[Card]) -> None:
    options = next(x for x in all_of_digits if x.protocol == "knn").settings["options"]
    assert options == {"num_neighbors": 2, "temperature": 0.07}
    digits = load_digits()
    learnt = rows_of_the_run()
    classifier = KNeighborsClassifier(
        2, metric="cosine", weights=lambda distances: np.exp(-distances / 0.07)
    )
    classifier.fit(digits.data[learnt], digits.target[learnt])
    expected = classifier.score(digits.data[-450:], digits.target[-450:])
    found = scores_of(all_of_digits, "knn")["raw pixels"]["top1"]["0"]
    assert found == pytest.approx(expected, abs=1.5 / 450)


TOY = "tests.evaluation.protocols.toy:TOY"


@pytest.mark.parametrize("name", ["toy", TOY])
def test_a_protocol_is_one_module_and_one_line(
    stored: Path, tmp_path: Path, monkeypatch, capsys, name: str
) -> None:
    """Or none, where its module is named on the command line."""
    if name == "toy":
        monkeypatch.setitem(PROTOCOLS, "toy", TOY)
    cards = run(stored, name, num_seeds=1, output=str(tmp_path))
    assert list(scores_of(cards, "toy")) == ["step 7", "random encoder", "raw pixels"]
    digits, learnt = load_digits(), rows_of_the_run()
    images, labels = digits.data[learnt], digits.target[learnt]
    means = [images[labels == c].mean(axis=0) for c in range(10)]
    classifier = KNeighborsClassifier(1).fit(means, range(10))
    expected = classifier.score(digits.data[-450:], digits.target[-450:])
    assert cards[2].scores["top1"]["0"] == pytest.approx(expected, abs=1.5 / 450)
    assert "\ntoy on digits: 120 images with labels" in capsys.readouterr().out
    written = {read_card(path).protocol for path in (tmp_path / FOLDER).iterdir()}
    assert written == {"toy"}
    with pytest.raises(UserError, match="protocols=tests.nowhere:TOY: No module"):
        run(stored, "tests.nowhere:TOY", output=str(tmp_path))


def test_a_table_says_which_k_it_is_of(stored: Path, tmp_path: Path, capsys) -> None:
    """The run's own kNN has another one, and is another number."""
    options = {"num_seeds": 1, "output": str(tmp_path)}
    (card, *_) = run(stored, "knn", **options)
    assert card.settings["options"]["num_neighbors"] == 2
    lines = capsys.readouterr().out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("knn on digits"))
    assert lines[at + 1].split(maxsplit=1) == ["top1,", "K = 2"]
    (note,) = (line for line in lines if "note:" in line)
    assert "K = 2 here, but the run's own kNN" in note and "has K = 10:" in note
    run(stored, "knn", knn__num_neighbors=10, **options)
    assert "the run's own kNN" not in capsys.readouterr().out


def test_lists_of_labels_are_kept(all_of_digits: list[Card], stored: Path) -> None:
    names = sorted(path.name for path in (stored / "label_lists").iterdir())
    assert [name.rpartition("-")[0] for name in names] == [
        f"digits-10pct-seed{i}" for i in (0, 1)
    ]
    # A tenth of each class, rounded up.
    sizes = np.bincount(load_digits().target[rows_of_the_run()])
    lines = (stored / "label_lists" / names[0]).read_text().splitlines()
    assert len(lines) == np.ceil(sizes / 10).sum()


def test_what_is_on_a_card_is_not_measured_again(
    all_of_digits: list[Card], stored: Path, monkeypatch, capsys
) -> None:
    def refuse(*args):
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "measure_seed", refuse)
        again = run(stored, "knn,linear,semi,svm")
    assert [card.scores for card in again] == [card.scores for card in all_of_digits]
    tables = capsys.readouterr().out
    for protocol in ("knn", "linear", "semi", "svm"):
        assert f"\n{protocol} on digits: {NUM_TRAIN} images with labels, 450" in tables
    assert f"cards: {stored / 'cards'}" in tables

    seeds = []
    measure = module.measure_seed
    monkeypatch.setattr(
        module, "measure_seed", lambda *a: seeds.append(a[-1]) or measure(*a)
    )
    run(stored, "knn", num_seeds=3)
    assert seeds == [2]  # of the random encoder


def test_one_percent_alone_is_a_protocol_of_its_own(
    all_of_digits: list[Card], stored: Path, tmp_path: Path, monkeypatch
) -> None:
    # The share that the other cards have is compiled already; here it stands for 1 %.
    monkeypatch.setattr(semi, "SHARES", (0.1, 0.5))
    cards = run(stored, "semi_1pct", num_seeds=1, output=str(tmp_path))
    assert [card.protocol for card in cards] == ["semi_1pct"] * 2
    for card, both in zip(
        cards, scores_of(all_of_digits, "semi").values(), strict=True
    ):
        assert list(card.scores) == ["top1, 10%", "top5, 10%"]
        for name, by_seed in card.scores.items():
            assert by_seed["0"] == pytest.approx(both[name]["0"], abs=1e-6)


def test_augmented_images_are_another_protocol(
    all_of_digits: list[Card], stored: Path, tmp_path: Path
) -> None:
    cards = run(
        stored,
        "linear",
        linear__crop_scale=(0.5, 1.0),
        num_seeds=1,
        output=str(tmp_path),
    )
    assert len(list((tmp_path / "cards").iterdir())) == len(cards) == 3
    plain = {card.name() for card in all_of_digits}
    assert not plain & {card.name() for card in cards}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"protocols": "knn,lineer"},
            "protocols=lineer: choose from knn, linear, semi",
        ),
        ({"checkpoint": ""}, "--config.checkpoint is missing"),
        ({"num_seeds": 0}, "num_seeds=0"),
        ({"linear__epochs": 0}, "linear.epochs=0"),
        ({"view__mean": (0.5,) * 3}, "images of 1 channels, view.mean has 3"),
        ({"data__name": "image_folder"}, "--config.data.folder=DIR is missing"),
        ({"knn__num_neighbors": "some"}, "knn.num_neighbors='some'"),
    ],
)
def test_bad_input_is_named(stored: Path, tmp_path: Path, changes, expected) -> None:
    given = {"checkpoint": stored, "protocols": "linear,knn", "data__num_train": 0}
    given |= {"output": str(tmp_path / "new")} | changes
    with pytest.raises(UserError) as caught:
        run(given.pop("checkpoint"), given.pop("protocols"), **given)
    assert expected in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_nowhere_to_write_is_said_before_anything_is_measured(
    stored: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "measure_seed", None)
    with pytest.raises(UserError, match="cannot be written .*--config.output"):
        run(stored, "knn", output=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("fill", "expected"), [(1.0, "same features"), (np.nan, "are NaN or infinite")]
)
def test_features_that_mean_nothing_are_marked_or_refused(
    stored: Path, tmp_path: Path, monkeypatch, capsys, fill: float, expected: str
) -> None:
    def embedder(bench, backbone):
        return lambda params, stats, images: np.full((len(images), 4), fill)

    monkeypatch.setattr(subjects, "embedder", embedder)
    options = {"output": str(tmp_path), "num_seeds": 1}
    if np.isnan(fill):
        with pytest.raises(TrainingError, match="120 of 120 training .*" + expected):
            run(stored, "knn", **options)
        return
    (card, *_) = run(stored, "knn", **options)
    assert card.made["0"]["remarks"] == ["all held-out images have the same features"]
    assert f"note: step 7: {card.made['0']['remarks'][0]}" in capsys.readouterr().out


def test_data_of_a_run_may_lie_elsewhere_or_be_fewer(
    stored: Path, tmp_path: Path
) -> None:
    changes = {"data__name": "", "output": str(tmp_path), "num_seeds": 1}
    cards = run(stored, "knn", **changes | {"data__num_train": 50})
    assert {card.data["train"] for card in cards} == {50}
    with pytest.raises(UserError, match="digits ship with scikit-learn"):
        run(stored, "knn", **changes | {"data__folder": "/elsewhere"})


# What a run may have, and what must be able to take its place.
OF_A_RUN = {
    "folder": ("/data", ""),
    "split": ("train[:10%]", ""),
    "num_train": (120, 0),
    "classes": (True, False),
    "held_out": (0.25, 0.0),
    "stretch_depth": (True, False),
    "outside_links": (True, False),
    "scan": ("headers", ""),
    "max_unreadable": (0.5, 0.0),
}


@pytest.mark.parametrize("key", OF_A_RUN)
def test_nothing_is_a_value_too(
    key: str, stored: Path, tmp_path: Path, monkeypatch
) -> None:
    """0, False and '' take the place of the run's value; what is not set leaves it."""
    before, nothing = OF_A_RUN[key]
    loaded = []

    def load(**section: Any) -> Dataset:
        loaded.append(section)
        raise UserError("far enough")

    monkeypatch.setattr(sources, "load", functools.wraps(sources.load)(load))
    trained = module.restore(find_source(stored))
    of_run = {name: value for name, (value, _) in OF_A_RUN.items()}
    data = trained.run.config["data"] | of_run
    config = trained.run.config | {"data": data}
    trained = trained._replace(run=trained.run._replace(config=config))
    monkeypatch.setattr(module, "restore", lambda _: trained)
    for value, expected in ((None, before), (nothing, nothing)):
        arguments = get_config().to_dict() | {"checkpoint": str(stored)}
        arguments |= {"protocols": "knn", "output": str(tmp_path)}
        arguments["data"][key] = value
        del arguments["task"]
        with pytest.raises(UserError, match="far enough"):
            evaluate(**arguments)
        found = loaded.pop()
        assert (found.pop("size"), found.pop("seed")) == (8, 0)
        assert found == data | {key: expected}


def test_what_a_run_or_a_recipe_has_is_not_set_by_default() -> None:
    """Any other default could not be told from the same value on the command line."""
    config = get_config()
    # What a run does when it continues, and what a plan is told.
    of_training = {"on_change", "num_examples"}
    assert set(config.data) == set(default.get_config().data) - of_training
    assert config.data.name == ""  # no set has this name
    assert {name for name, x in config.data.items() if x is None} == OF_A_RUN.keys()
    for section in ("view", "linear", "semi", "finetune"):
        assert set(config[section].values()) == {None}, section
    assert set(embed.get_config().view.values()) == {None}
    assert embed.get_config().share is None
    for kind, section in ((Linear, "linear"), (Finetune, "semi")):
        assert set(config[section].keys()) == set(kind._fields)


@pytest.mark.parametrize("name", Finetune._fields)
def test_nothing_takes_the_place_of_a_recipes_value(name: str) -> None:
    nothing = () if name in ("milestones", "crop_scale") else 0
    section = dict.fromkeys(Finetune._fields) | {name: nothing}
    try:
        found = changed(transfer.IMAGENET, section, "finetune")
    except UserError as error:
        assert f"finetune.{name}=0: set it above 0" in str(error)
    else:
        assert found == transfer.IMAGENET._replace(**{name: nothing})


@pytest.mark.parametrize("key", get_config().data.keys())
def test_nothing_can_be_set_on_the_command_line(key: str, monkeypatch) -> None:
    values, nothing = flags.FlagValues(), OF_A_RUN.get(key, ("", ""))[1]
    argv = ["main.py", f"--config.data.{key}={nothing}"]
    monkeypatch.setattr(sys, "argv", argv)
    holder = config_flags.DEFINE_config_dict("config", get_config(), flag_values=values)
    values(argv)
    assert holder.value.data[key] == nothing
    assert type(holder.value.data[key]) is type(nothing)


def test_an_exported_file_is_measured_as_its_checkpoint(
    all_of_digits: list[Card], stored: Path, tmp_path: Path, monkeypatch
) -> None:
    """What the export wrote beside it says how images are given to it."""
    path = tmp_path / "weights.npz"
    options = {"what": "backbone", "format": "npz", "output": str(path)}
    export(checkpoint=str(stored), **options)
    output = str(tmp_path / "cards")
    (card, *_) = run(path, "knn", output=output, num_seeds=1)
    expected = scores_of(all_of_digits, "knn")["step 7"]
    assert card.scores == {name: pytest.approx(x) for name, x in expected.items()}
    path.with_name("weights.npz.json").unlink()
    with pytest.raises(UserError, match="set --config.view.mean, .*size, .*std to"):
        run(path, "knn", output=output)


def test_weights_alone_say_too_little(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match="config.output is missing"):
        run(path, "knn")


def test_a_file_that_is_no_card_stops_nothing_else(
    stored: Path, tmp_path: Path
) -> None:
    cards = run(stored, "knn", output=str(tmp_path), num_seeds=1)
    path = tmp_path / "cards" / cards[0].name()
    path.write_text(json.dumps({"protocol": "knn"}))
    with pytest.raises(UserError, match="is no evaluation card"):
        run(stored, "knn", output=str(tmp_path), num_seeds=1)


def test_paths_mean_the_same_as_in_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    workdir = tmp_path / "runs[1]\\ \udcff"
    store_run(workdir, (7,))
    given = "~/runs[1]\\ \udcff"
    cards = run(given, "knn", num_seeds=1)
    assert len(list((workdir / FOLDER).glob("*.json"))) == len(cards) == 3
    run(given, "knn", num_seeds=1, output="~/new")
    assert len(list((tmp_path / "new" / FOLDER).glob("*.json"))) == 3


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"output": "gs://b/x"}, "output=gs://b/x is an address"),
        ({"data__folder": "gs://b/x"}, "data.folder=gs://b/x is an address"),
        ({"other__tfds_folder": "s3://b/x"}, "other.tfds_folder=s3://b/x is an"),
        ({"other__places": "s3://b/x"}, "other.places=s3://b/x is an address"),
        ({"output": "{file}/x"}, "cannot be written"),
    ],
)
def test_places_are_looked_at_before_anything_is_read(
    stored: Path, tmp_path: Path, monkeypatch, changes: dict, expected: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "restore", None)
    changes = {k: x.format(file=tmp_path / "file") for k, x in changes.items()}
    with pytest.raises(UserError, match=expected):
        run(stored, "knn", **changes)
