"""Neighbours of new pictures, with a run that was trained briefly on photographs."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from configs import embed as embed_config
from configs import image_folder
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation import kept
from invariance_propagation.models.torchvision import to_torchvision
from invariance_propagation.store.restore import restore_encoder
from invariance_propagation.tasks import compare, embed, embedder
from invariance_propagation.train.pretrain import train_and_evaluate
from tests.stored_run import store_run

NUM_TRAIN = 96
ALTERED = [f"{i:03}.png" for i in range(0, 60, 3)]  # 20 of them


def near_duplicate(image: Image.Image) -> bytes:
    """Crops 3 % at each side, scales to 80 %, and saves as JPEG of quality 80."""
    edge = round(0.03 * image.width)
    image = image.crop((edge, edge, image.width - edge, image.height - edge))
    size = (round(0.8 * image.width), round(0.8 * image.height))
    image.resize(size).save(file := io.BytesIO(), "JPEG", quality=80)
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/: parts of two photographs; near/: near-duplicates; run/: a workdir."""
    root, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    (root / "train").mkdir()
    (root / "near").mkdir()
    photographs = load_sample_images().images
    for i in range(NUM_TRAIN):
        photograph, side = photographs[i % 2], int(random.integers(90, 220))
        top = int(random.integers(photograph.shape[0] - side))
        left = int(random.integers(photograph.shape[1] - side))
        part = photograph[top : top + side, left : left + side]
        Image.fromarray(part).save(root / "train" / f"{i:03}.png")
    for name in ALTERED:
        with Image.open(root / "train" / name) as image:
            (root / "near" / f"{name[:3]}.jpg").write_bytes(near_duplicate(image))
    config = image_folder.get_config()
    config.data.folder, config.num_devices = str(root / "train"), 2
    config.augment.size = 32
    config.encoder.update({"width": 4, "hidden": 16, "dim": 16})
    config.method.start_epoch = 1
    config.train.epochs = 2
    train_and_evaluate(config, str(root / "run"))
    return root


@pytest.fixture
def moved(place: Path, tmp_path: Path) -> Path:
    """Makes a copy to change; the run's images stay where they are."""
    shutil.copytree(place, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "run" / embed.KEPT, ignore_errors=True)
    return tmp_path / "copy"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of images of each pass of the network."""
    seen: list[int] = []
    read_crops = embedder.read_crops

    def count(images: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(images))
        return read_crops(images, *args, **options)

    monkeypatch.setattr(embedder, "read_crops", count)
    return seen


def run(checkpoint: Path, folder: Path, /, **changes: Any) -> dict[str, np.ndarray]:
    """Embeds a folder and returns the arrays of the output."""
    config = embed_config.get_config()
    config.checkpoint, config.folder = str(checkpoint), str(folder)
    config.update({"num_neighbors": 3, "num_devices": 2} | changes)
    arguments = config.to_dict()
    del arguments["task"]
    with np.load(embed.embed_folder(**arguments), allow_pickle=False) as found:
        return dict(found)


def first_of(found: dict[str, np.ndarray]) -> list[str]:
    return found["neighbor_ids"][:, 0].tolist()


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    assert left.keys() == right.keys()
    return all(np.array_equal(left[name], right[name]) for name in left)


def weights_of(checkpoint: Path, path: Path) -> Path:
    restored = restore_encoder(checkpoint)
    variables = {"params": restored.params, "batch_stats": restored.batch_stats}
    np.savez(path, **to_torchvision(variables))
    given = {name: restored.config["augment"][name] for name in ("size", "mean", "std")}
    Path(f"{path}.json").write_text(json.dumps({"input": given}))
    return path


def test_near_duplicates_find_their_originals(place: Path) -> None:
    assert first_of(run(place / "run", place / "near")) == ALTERED


@pytest.mark.parametrize("by", ["features", "embeddings"])
def test_a_training_picture_finds_itself(place: Path, by: str) -> None:
    found = run(place / "run", place / "train", by=by)
    assert found["neighbors"][:, 0].tolist() == list(range(NUM_TRAIN))
    np.testing.assert_allclose(found["similarities"][:, 0], 1, atol=1e-6)


def test_devices_do_not_matter(place: Path, tmp_path: Path) -> None:
    outputs = []
    for num_devices in (1, 3, 8):
        shutil.rmtree(place / "run" / embed.KEPT, ignore_errors=True)
        own = {"num_devices": num_devices, "output": str(tmp_path / "out.npz")}
        outputs.append(run(place / "run", place / "near", **own))
    for other in outputs[1:]:
        for name in ("neighbors", "neighbor_ids"):
            np.testing.assert_array_equal(other[name], outputs[0][name])
        for name in ("features", "similarities"):
            np.testing.assert_allclose(other[name], outputs[0][name], atol=1e-5)


def test_training_images_are_embedded_once(
    moved: Path, passes: list[int], capsys
) -> None:
    first = run(moved / "run", moved / "near")
    assert passes == [20, NUM_TRAIN]
    path = moved / "run" / "features" / "training.npz"
    assert f"once: 18.4 kB of features are kept in {path}" in capsys.readouterr().out
    assert same(run(moved / "run", moved / "near"), first)
    # Embeddings were kept as well.
    run(moved / "run", moved / "near", by="embeddings")
    assert passes == [20, NUM_TRAIN, 20, 20]
    assert "comparing by embeddings with 96 training" in capsys.readouterr().out
    assert list(path.parent.iterdir()) == [path]


def damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"features-0.npy") + 400
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def no_file_of_ours(path: Path) -> None:
    path.write_bytes(b"something else")


def without_facts(path: Path) -> None:
    np.savez(path, other=np.zeros(3))


@pytest.mark.parametrize("harm", [damage_middle, cut, no_file_of_ours, without_facts])
def test_a_damaged_file_is_made_again(
    moved: Path, passes: list[int], capsys, harm: Callable[[Path], None]
) -> None:
    first = run(moved / "run", moved / "near")
    path = moved / "run" / "features" / "training.npz"
    harm(path)
    capsys.readouterr()
    assert same(run(moved / "run", moved / "near"), first)
    said = capsys.readouterr().out.splitlines()
    (line,) = (x for x in said if x.startswith(f"{path} cannot be read ("))
    assert line.endswith("its features are made again")
    assert passes == [20, NUM_TRAIN] * 2
    run(moved / "run", moved / "near")
    assert passes[-1] == 20


def test_another_view_makes_them_again(moved: Path, passes: list[int], capsys) -> None:
    run(moved / "run", moved / "near")
    run(moved / "run", moved / "near", share=1.0)
    path = moved / "run" / "features" / "training.npz"
    assert f"{path} holds features of another view: they" in capsys.readouterr().out
    assert passes == [20, NUM_TRAIN] * 2


def test_another_step_makes_them_again(
    place: Path, tmp_path: Path, passes: list[int], capsys
) -> None:
    data = {"name": "image_folder", "folder": str(place / "train")}
    own = {"channels": 3, "data": data}
    options = {"view": {"mean": (0.5,) * 3, "std": (0.2,) * 3}}
    store_run(tmp_path, (3, 7), **own)
    for name in ("3", "7"):
        checkpoint = tmp_path / "checkpoints" / name
        found = run(checkpoint, place / "train", **options)
        assert first_of(found) == sorted(x.name for x in (place / "train").iterdir())
    assert passes == [NUM_TRAIN] * 4
    assert (
        "training.npz holds features of another step: they" in capsys.readouterr().out
    )
    # A run that was begun again in the same place may have the same step.
    store_run(other := tmp_path / "other", (7,), **own, head="linear")
    shutil.rmtree(tmp_path / "checkpoints")
    (other / "checkpoints").rename(tmp_path / "checkpoints")
    run(tmp_path, place / "train", **options)
    assert (
        "training.npz holds features of another weights: they"
        in capsys.readouterr().out
    )


def test_other_pictures_are_embedded_again(
    moved: Path, passes: list[int], capsys
) -> None:
    options = {"compare_with": str(moved / "train")}
    run(moved / "run", moved / "near", **options)
    first = moved / "train" / ALTERED[0]
    # Another picture of the same name.
    shutil.copy(moved / "train" / "001.png", first)
    found = run(moved / "run", moved / "near", **options)
    assert passes == [20, NUM_TRAIN] * 2
    assert first_of(found)[0] != ALTERED[0] and first_of(found)[1:] == ALTERED[1:]
    first.unlink()
    assert len(run(moved / "run", moved / "near", **options)["ids"]) == 20
    assert passes == [20, NUM_TRAIN] * 2 + [20, NUM_TRAIN - 1]
    assert "holds features of another content: they" in capsys.readouterr().out


@pytest.fixture
def gone(place: Path):
    """Moves the run's training images away."""
    (place / "train").rename(place / "elsewhere")
    yield place / "elsewhere"
    (place / "elsewhere").rename(place / "train")


def test_training_images_that_are_gone(moved: Path, gone: Path, capsys) -> None:
    with pytest.raises(
        UserError, match="are no longer there.*: set --config.compare_with"
    ) as it:
        run(moved / "run", moved / "near")
    assert "\n" not in str(it.value) and "data.folder" not in str(it.value)
    found = run(moved / "run", moved / "near", compare_with=str(gone))
    assert first_of(found) == ALTERED
    assert "neighbors" not in run(moved / "run", moved / "near", num_neighbors=0)


def test_their_features_may_be_left(
    place: Path, moved: Path, passes: list[int], capsys
) -> None:
    first = run(moved / "run", moved / "near")
    (place / "train").rename(place / "elsewhere")
    try:
        assert same(run(moved / "run", moved / "near"), first)
        assert passes == [20, NUM_TRAIN, 20]
        assert "using their kept features" in capsys.readouterr().out
        damage_middle(moved / "run" / "features" / "training.npz")
        with pytest.raises(
            UserError, match="cannot be read.*are no longer there: set --config"
        ):
            run(moved / "run", moved / "near")
    finally:
        (place / "elsewhere").rename(place / "train")


def test_training_images_that_changed_are_said(
    place: Path, moved: Path, capsys
) -> None:
    added = place / "train" / "100.png"
    shutil.copy(place / "train" / "000.png", added)
    try:
        found = run(moved / "run", moved / "near")
    finally:
        added.unlink()
    # Of two equal images, the lower row comes first.
    assert found["neighbors"][0, :2].tolist() == [0, NUM_TRAIN]
    assert "have changed since the checkpoint" in capsys.readouterr().out


def test_where_nothing_can_be_written(
    moved: Path, tmp_path: Path, passes: list[int], capsys
) -> None:
    expected = run(moved / "run", moved / "near")
    shutil.rmtree(moved / "run" / "features")
    (moved / "run" / "features").touch()  # in the way of the folder
    capsys.readouterr()
    output = {"output": str(tmp_path / "out.npz")}
    assert same(run(moved / "run", moved / "near", **output), expected)
    said = capsys.readouterr().out
    assert said.count("the features are not kept and must be made again next time") == 1
    about = json.loads((tmp_path / "out.npz.json").read_text())
    assert about["compared_with"]["features_kept_in"] is None


def test_weights_alone(moved: Path, tmp_path: Path, passes: list[int]) -> None:
    weights = weights_of(moved / "run", tmp_path / "weights.npz")
    own = {"output": str(tmp_path / "out.npz"), "share": 7 / 8}
    assert set(run(weights, moved / "near", **own)) == {"ids", "features"}
    own["compare_with"] = str(moved / "train")
    for _ in range(2):
        found = run(weights, moved / "near", **own)
        assert first_of(found) == ALTERED
    assert passes == [20, 20, NUM_TRAIN, 20]
    (kept_file,) = (tmp_path / "weights.npz.features").iterdir()
    assert kept.read_facts(kept_file)["step"] is None
    with pytest.raises(UserError, match="by='embeddings': .* without a head"):
        run(weights, moved / "near", **own, by="embeddings")
    with pytest.raises(UserError, match="there are 96 pictures of .*: set it to at mo"):
        run(weights, moved / "near", **own, num_neighbors=97)


def test_pictures_to_compare_with_that_cannot_be_read(
    moved: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    shutil.copy(moved / "train" / ALTERED[0], folder / "b.png")
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(b"no picture")
    for _ in range(2):
        found = run(moved / "run", moved / "near", compare_with=str(folder))
        # Neighbours are places among all pictures, but only usable ones are named.
        assert found["neighbors"].tolist() == [[1]] * 20
        assert capsys.readouterr().out.count("not compared with: ") == 2
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match="none of the 2 pictures of .* can be used"):
        run(moved / "run", moved / "near", compare_with=str(folder), num_neighbors=1)


def test_few_of_those_left_out_are_named(capsys) -> None:
    compare.name_left_out([f"{i}.png" for i in range(9)])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6 and said[-1] == "not compared with: 4 more pictures"


def test_blocks_do_not_matter(
    moved: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(moved / "run", moved / "near", compare_with=str(moved / "train"))
    shutil.rmtree(moved / "run" / "features")
    monkeypatch.setattr(embedder, "BLOCK", 7)
    monkeypatch.setattr(embedder, "BATCH_SIZE", 10)
    for _ in range(2):
        found = run(moved / "run", moved / "near", compare_with=str(moved / "train"))
        np.testing.assert_array_equal(found["neighbors"], expected["neighbors"])
    (path,) = (moved / "run" / "features").iterdir()
    sizes = [len(rows) for rows, _ in kept.read_blocks(path, "features")]
    assert sizes == [7] * 13 + [5]
    assert passes == [20, NUM_TRAIN] * 2 + [20]
