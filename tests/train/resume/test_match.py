"""A run whose images have changed: what is said, what is refused, and how it continues."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import image_folder
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.sources.survey import is_held_out
from invariance_propagation.data.sources.tfds.stored import Records
from invariance_propagation.errors import Stopped, UserError
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.facts import (
    Facts,
    read_facts,
    unpack_checksums,
    unpack_ids,
)
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.resume import match
from invariance_propagation.train.resume.identity import (
    check_same_run,
    identity_of,
    names_of,
    steps_per_epoch_of,
)
from invariance_propagation.train.resume.workdir import with_noted_steps
from invariance_propagation.train.run import Run, state_shapes

COUNT, BATCH, STEP = 72, 16, 5


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(9, 9, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def names(prefix: str, *, held_out: bool, count: int) -> list[str]:
    """Returns names of files that are all held out, or all trained on."""
    found = (f"{i % 2}/{prefix}{i:03}.png" for i in range(1000))
    some = [name for name in found if is_held_out(name, 0.2) == held_out][:count]
    return sorted(some)


TRAINED, HELD_OUT = (
    names("old", held_out=x, count=n) for x, n in ((False, COUNT), (True, 10))
)
# More names that are trained on, by none of the files at first.
NEW = names("new", held_out=False, count=30)


def config_of(folder: Path, **changes: Any) -> ConfigDict:
    config = image_folder.get_config()
    config.num_devices = 2
    config.data.update(folder=str(folder), held_out=0.2, classes=True)
    config.augment.size = 8
    config.encoder.update(depth=6, width=4, hidden=8)
    config.method.update(background_size=16, start_epoch=1)
    config.knn.num_neighbors = 3
    config.train.update(batch_size=BATCH, epochs=2, keep_checkpoints=9)
    config.train.update(checkpoint_every=3, evaluate_every=0)
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and beside them a run on them that was stopped in its second epoch."""
    place = tmp_path_factory.mktemp("begun")
    for seed, name in enumerate([*TRAINED, *HELD_OUT]):
        draw(place / "pictures" / name, seed)
    config = config_of(
        place / "pictures",
        train__stop_after_steps=STEP,
        train__gather_checkpoints=False,
    )
    with pytest.raises(Stopped):
        train_and_evaluate(config, str(place / "run"))
    return place


@pytest.fixture
def place(begun: Path, tmp_path: Path) -> Path:
    shutil.copytree(begun, tmp_path / "place")
    return tmp_path / "place"


def change(place: Path) -> None:
    """One of each kind among the training pictures, none among the held-out ones."""
    folder = place / "pictures"
    draw(folder / NEW[0], 1000)
    draw(folder / NEW[1], 1001)
    (folder / TRAINED[4]).unlink()
    (folder / TRAINED[9]).rename(folder / NEW[2])
    draw(folder / TRAINED[20], 1020)


CHANGED = (
    f"2 added ({NEW[0]}, {NEW[1]}), 1 gone ({TRAINED[4]}), "
    f"1 renamed ({TRAINED[9]} -> {NEW[2]}), 1 changed ({TRAINED[20]})"
)


def restored(place: Path, **changes: Any) -> tuple[Run, Any, Any, dict[str, Any]]:
    """The run, the arrays of its newest checkpoint, those to continue with, and facts."""
    config = config_of(place / "pictures", **changes)
    checkpoints = Checkpoints(place / "run", keep=9)
    run = with_noted_steps(build(config), config, checkpoints)
    facts = identity_of(run) | {"config": config.to_dict()}
    shapes = state_shapes(run)
    target = partial(match.stored_shapes, shapes, facts, run)
    _, arrays, saved = checkpoints.restore(target)
    checkpoints.close()
    after, noted = match.carry_over(run, arrays, shapes, facts, saved, place / "run")
    return run, arrays, after, noted


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_has_changed_is_said_and_nothing_touched(place: Path) -> None:
    change(place)
    before = files_of(place / "run")
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            train_and_evaluate(config_of(place / "pictures"), str(place / "run"))
        message = str(caught.value)
        assert f"): {CHANGED}: add --config.data.on_change=match to continue" in message
        assert "\n" not in message and message.endswith("choose another --workdir")
        assert f"with {COUNT} images (digest" in message
        assert files_of(place / "run") == before


def test_rows_follow_their_images(place: Path, capsys) -> None:
    change(place)
    capsys.readouterr()
    run, before, after, noted = restored(place, data__on_change="match")
    output = capsys.readouterr().out
    assert f"the training images have changed since step {STEP}: {CHANGED}\n" in output
    rows = f"rows of the memory: {COUNT - 2} stay as they are, 3 new from the network"
    assert rows in output and "of that step, 2 dropped\n" in output
    assert f"continues at step {STEP}, in epoch 1, " in output
    counts = {"added": 2, "removed": 1, "renamed": 1, "changed": 1}
    assert noted["data_changes"] == [{"step": STEP, "held_out": ""} | counts]
    assert noted["untrained"] == {}  # it was measured with other images

    everything_else = [x._replace(memory=()) for x in (before, after)]
    jax.tree.map(np.testing.assert_array_equal, *everything_else)
    gone = TRAINED[4], TRAINED[20]
    new_of = {name: name for name in TRAINED if name not in gone}
    new_of[TRAINED[9]] = NEW[2]
    places = {name: i for i, name in enumerate(run.dataset.train.ids)}
    moved = {TRAINED.index(old): places[new] for old, new in new_of.items()}
    for old, new in moved.items():
        np.testing.assert_array_equal(after.memory.bank[new], before.memory.bank[old])
        expected = [moved.get(x, new) for x in before.memory.graph[old]]
        assert after.memory.graph[new].tolist() == expected
    fresh = [places[name] for name in (NEW[0], NEW[1], TRAINED[20])]
    images = run.dataset.train.images[0 : run.num_examples][fresh]
    found = run.embed(before.params, before.batch_stats, images).embedding
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(after.memory.bank[fresh], found, atol=1e-5)
    for new in fresh:
        assert set(after.memory.graph[new]) == {new}


def test_it_goes_on_to_the_end(place: Path, capsys) -> None:
    for new, old in zip(NEW[:3], TRAINED[7:10], strict=True):
        (place / "pictures" / old).unlink()
        draw(place / "pictures" / new, 2000 + COUNT + int(new[-5]))
    # One fewer, so that a row is not where it was in files of rows either.
    (place / "pictures" / TRAINED[10]).unlink()
    folder, workdir = place / "pictures", str(place / "run")
    matched = config_of(
        folder,
        data__on_change="match",
        train__stop_after_steps=2,
        train__gather_checkpoints=False,
    )
    with pytest.raises(Stopped, match=f"at step {STEP + 2} of 8"):
        train_and_evaluate(matched, workdir)
    assert "3 added (" in capsys.readouterr().out
    before, after = (read_facts(place / "run/checkpoints" / x) for x in ("5", "7"))
    assert unpack_ids(before["sample_ids"]) == TRAINED
    ids = unpack_ids(after["sample_ids"])
    assert ids == sorted([*TRAINED[:7], *TRAINED[11:], *NEW[:3]])
    assert len(unpack_checksums(after["sample_checksums"])) == len(ids)
    assert before["digest"] != after["digest"]
    assert after["data_changes"][0]["added"] == 3
    assert set(Facts.__annotations__) - set(after) == {"started_from"}
    # The same command, and the one of before, continue without a word.
    summary = train_and_evaluate(config_of(folder), workdir)
    assert summary["steps"] == 8 and summary["knn_untrained"] is None
    assert "changed" not in capsys.readouterr().out
    rows = [row for row in read_rows(place / "run") if "loss" in row]
    assert [row["step"] for row in rows] == [4, 8]
    # A run that is finished stays so.
    draw(folder / NEW[4], 4000)
    assert train_and_evaluate(matched, workdir) == summary
    assert "is finished" in (output := capsys.readouterr().out)
    assert "its images have changed since" in output


@pytest.mark.parametrize(
    ("more", "fewer", "said"),
    [
        (26, 0, "stays 4 steps of 16, for which 64 images are drawn anew each epoch"),
        (0, 20, "stays 4 steps of 16, in which some images come more than once"),
    ],
)
def test_an_epoch_keeps_its_steps(
    place: Path, more: int, fewer: int, said: str, capsys
) -> None:
    for seed, name in enumerate(NEW[:more]):
        draw(place / "pictures" / name, 2000 + seed)
    for name in TRAINED[:fewer]:
        (place / "pictures" / name).unlink()
    alone = build(config_of(place / "pictures"))
    assert alone.steps_per_epoch == {26: 6, 0: 3}[more]
    run, *_ = restored(place, data__on_change="match")
    assert said in capsys.readouterr().out
    assert run.steps_per_epoch == 4 and run.total_steps == 8
    sizes = {"num_examples": run.num_examples, "batch_size": BATCH, "steps": 4}
    order = epoch_order(seed=0, epoch=1, **sizes)
    feed = run.input.feed(start=STEP, stop=8)
    for batch in order[STEP - 4 :]:
        np.testing.assert_array_equal(np.ravel(next(feed)[0]), batch)
    feed.close()
    # The schedule is that of the run as it began.
    began = build(config_of(place / "pictures"), steps_per_epoch=4).schedule
    assert [run.schedule(x) for x in range(8)] == [began(x) for x in range(8)]


def test_an_older_checkpoint_may_be_of_other_images(place: Path) -> None:
    # The newest is of the present images and damaged; the one before is of others.
    change(place)
    damaged = place / "run/checkpoints/6"
    shutil.copytree(place / f"run/checkpoints/{STEP}", damaged)
    for path in (damaged / "facts").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"2 added .*on_change=match"):
        restored(place)
    *_, noted = restored(place, data__on_change="match")
    assert noted["data_changes"][0]["step"] == STEP


def test_a_moved_and_renamed_folder_goes_on_without_a_word(place: Path, capsys) -> None:
    (place / "elsewhere").mkdir()
    (place / "pictures").rename(place / "elsewhere" / "pictures")
    shutil.copytree(place / "run", place / "elsewhere" / "run")
    _, before, after, noted = restored(place / "elsewhere")
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert "knn" in noted["untrained"] and "data_changes" not in noted
    assert capsys.readouterr().out == ""


def test_a_changed_held_out_picture_is_noticed(place: Path, capsys) -> None:
    draw(place / "pictures" / HELD_OUT[3], 3000)
    said = f"10 then, 10 now: 1 changed ({HELD_OUT[3]})"
    with pytest.raises(UserError) as caught:
        train_and_evaluate(config_of(place / "pictures"), str(place / "run"))
    assert said in str(caught.value) and "kNN before and after" in str(caught.value)
    assert "--config.data.on_change=match" in str(caught.value)
    _, before, after, noted = restored(place, data__on_change="match")
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert said in capsys.readouterr().out and noted["untrained"] == {}
    # Without labels it decides nothing.
    facts = read_facts(place / f"run/checkpoints/{STEP}") | {"untrained": {}}
    run = build(config_of(place / "pictures", data__classes=False))
    own = identity_of(run) | {"config": {"data": {"num_train": 0}}}
    assert said in check_same_run(facts, own, run, place).held_out


# Without a run: what a source knows of its images decides what can be told.


def records(content: bytes) -> Callable[[Any], Pictures]:
    return lambda ids: Pictures(
        ids, Records(None, content), size=8, where="records of TFDS"
    )


def run_of(train: Split, *, held_out: Split | None = None, match: Any = len) -> Any:
    method = SimpleNamespace(memory_spec={"bank": 1}, match=match)
    return SimpleNamespace(
        dataset=Dataset("some", train, held_out),
        num_examples=len(train.images),
        options=SimpleNamespace(batch_size=2),
        steps_per_epoch=2,
        method=method,
        has_knn=held_out is not None,
    )


def compared(before: Any, now: Any, on_change: str = "match") -> Any:
    """What `check_same_run` finds between two runs, by way of JSON."""
    found = json.loads(json.dumps(identity_of(before) | names_of(before)))
    own = identity_of(now)
    own |= {"config": {"data": {"num_train": 0, "on_change": on_change}}}
    return check_same_run(found, own, now, Path("runs/some"))


ARRAYS = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)


@pytest.mark.parametrize("on_change", ["refuse", "match"])
def test_arrays_without_names_are_refused_and_it_is_said(on_change: str) -> None:
    # As digits and Fashion-MNIST are.
    one, other = (run_of(Split(ARRAYS[rows], None)) for rows in ([0, 1], [1, 0]))
    assert compared(one, one, on_change) is None
    with pytest.raises(UserError, match="images have no names .* another --workdir"):
        compared(one, other, on_change)


def test_arrays_with_names_are_told_by_both() -> None:
    # As CIFAR by TFDS is.
    one = run_of(Split(ARRAYS[:3], None, ["a", "b", "c"]))
    other = run_of(Split(ARRAYS[[0, 2, 4]], None, ["a", "d", "b"]))
    found = compared(one, other).train
    assert found.rows.tolist() == [0, 2, -1] and found.by_content
    assert str(found) == "1 renamed (c -> d), 1 changed (b)"


def test_records_are_told_by_names_alone() -> None:
    make, ids = records(b"content"), ["t__0", "t__1", "t__2"]
    one = run_of(Split(make(ids), None, ids))
    more = [*ids, "t__3"]
    found = compared(one, run_of(Split(records(b"other")(more), None, more))).train
    assert found.rows.tolist() == [0, 1, 2, -1]
    assert str(found) == "1 added (t__3); compared by names only"
    same_names = compared(one, run_of(Split(records(b"other")(ids), None, ids))).train
    assert same_names.rows.tolist() == [-1, -1, -1]


def test_a_method_that_cannot_match_its_memory_is_named() -> None:
    one = run_of(Split(ARRAYS[:3], None, ["a", "b", "c"]), match=None)
    other = run_of(Split(ARRAYS[:2], None, ["a", "b"]), match=None)
    with pytest.raises(UserError, match=r"1 gone \(c\); .* no `match`"):
        compared(one, other)
    other.method.memory_spec = ()  # then there is nothing to match
    assert str(compared(one, other).train) == "1 gone (c)"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, 3, "none then, 3 now"),
        (3, None, "3 then, none now"),
        (3, 2, "3 then, 2 now: 1 gone (c)"),
    ],
)
def test_held_out_images_may_come_and_go(before, now, said: str) -> None:
    ids = ["a", "b", "c"]

    def run_with(count: int | None) -> Any:
        held_out = count and Split(ARRAYS[:count], None, ids[:count])
        return run_of(Split(ARRAYS, None), held_out=held_out)

    found = compared(run_with(before), run_with(now))
    assert found.train is None and found.held_out == said


def test_a_run_of_before_is_not_asked_for_what_it_has_not_noted() -> None:
    loop, held_out = (Split(ARRAYS[x:], None, list("abcde")[x:]) for x in (0, 3))
    now = run_of(loop, held_out=held_out)
    own = identity_of(now) | {"config": {"data": {"num_train": 0}}}
    unknown = ("held_out", "labels", "config")
    old = {name: own[name] for name in own if name not in unknown}
    del old["steps_per_epoch"]
    assert check_same_run(old, own, now, Path("runs/some")) is None
    assert steps_per_epoch_of(old, now) == 2


def labelled(*labels: int) -> Split:
    ids = list("abcde")[: len(labels)]
    return Split(ARRAYS[: len(labels)], np.array(labels, np.int32), ids)


def test_other_labels_are_refused_or_dropped_with_the_scores() -> None:
    one, other = run_of(labelled(0, 1, 1)), run_of(labelled(1, 1, 0))
    assert compared(one, run_of(labelled(0, 1, 1)), "refuse") is None
    with pytest.raises(UserError, match="other labels, so kNN .*on_change=match"):
        compared(one, other, "refuse")
    found = compared(one, other)
    assert found.train is None and found.labels and not found.held_out
    said = match.tell(found, other, 7, scored=True)
    assert said[0].startswith("the labels have changed since step 7; scores")
    assert "summary leaves out kNN" in said[1]
    assert match.counts(found, 7) == {"step": 7, "held_out": "", "labels": True}


def test_a_run_may_go_on_without_labels() -> None:
    with_labels, without = run_of(labelled(0, 1)), run_of(Split(ARRAYS[:2], None))
    assert compared(with_labels, without, "refuse") is None
    assert compared(without, with_labels, "refuse") is None


def test_other_labels_of_held_out_images_are_noticed() -> None:
    one, other, more = (
        run_of(labelled(0, 1), held_out=labelled(*x))
        for x in ((0, 1, 1), (1, 1, 0), (0, 1, 1, 1))
    )
    assert compared(one, one, "refuse") is None
    with pytest.raises(UserError, match=r"other held-out images \(.*other labels\)"):
        compared(one, other, "refuse")
    assert compared(one, other).held_out == "the same images with other labels"
    assert compared(one, more).held_out == "3 then, 4 now: 1 added (d)"
