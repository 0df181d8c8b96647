"""Embeds new pictures with a stored encoder, and checks what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.embed import get_config
from invariance_propagation import phases
from invariance_propagation.data.load.pictures import central_crop
from invariance_propagation.data.views.augment import normalize
from invariance_propagation.errors import UserError
from invariance_propagation.models.torchvision import to_torchvision
from invariance_propagation.store.restore import float32, restore_encoder
from invariance_propagation.tasks import embed as module
from invariance_propagation.tasks.embed import embed_folder
from tests.stored_run import IDS, NUM_EXAMPLES, store_run

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PICTURES = ["a.png", "b/c.png", "b/d.png", "b/e.png", "f.png"]


def draw(root: Path, names: list[str], seed: int) -> Path:
    """Writes pictures of noise in several shapes."""
    random = np.random.default_rng(seed)
    for name in names:
        shape = (*random.integers(9, 30, size=2), 3)
        pixels = random.integers(256, size=shape).astype(np.uint8)
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("training"), IDS, seed=1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, training: Path) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    data = {"name": "image_folder", "folder": str(training)}
    store_run(workdir, (7,), channels=3, data=data)
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw(tmp_path_factory.mktemp("pictures"), PICTURES, seed=0)
    (root / "b" / "broken.png").write_bytes(b"no picture")
    return root


def run(checkpoint: Path, folder: Path, /, **changes: Any) -> Path:
    config = get_config()
    config.checkpoint, config.folder = str(checkpoint), str(folder)
    config.view.update({"mean": MEAN, "std": STD})
    config.update({"num_neighbors": 4, "num_devices": 2})
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    arguments = config.to_dict()
    del arguments["task"]
    return embed_folder(**arguments)


def expected_of(
    checkpoint: Path,
    folder: Path,
    *,
    share: float,
    size: int = 8,
    names: Sequence[str] = PICTURES,
):
    """Returns the encoder's outputs for pictures read one by one."""
    restored = restore_encoder(checkpoint)
    images = [
        central_crop(np.asarray(Image.open(folder / name)), size, share=share)
        for name in names
    ]
    views = normalize(jnp.asarray(np.stack(images)), size=size, mean=MEAN, std=STD)
    variables = {"params": restored.params, "batch_stats": restored.batch_stats}
    return float32(restored.encoder).apply(variables, views, train=False)


def unit_rows(x) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("by", ["features", "embeddings"])
@pytest.mark.parametrize(("options", "share"), [({}, 7 / 8), ({"share": 0.5}, 0.5)])
def test_a_row_per_picture(
    stored: Path,
    training: Path,
    folder: Path,
    tmp_path: Path,
    capsys,
    monkeypatch: pytest.MonkeyPatch,
    options: dict,
    share: float,
    by: str,
) -> None:
    monkeypatch.setattr(phases, "SAY_AFTER", 0.0)
    options = options | {"by": by}
    path = run(stored, folder, output=str(tmp_path / "new" / "out.npz"), **options)
    found = np.load(path, allow_pickle=False)
    assert found["ids"].tolist() == PICTURES
    outputs = expected_of(stored, folder, share=share)
    unit = unit_rows(outputs.embedding)
    np.testing.assert_allclose(found["features"], outputs.features, atol=1e-4)
    np.testing.assert_allclose(found["embeddings"], unit, atol=1e-4)

    trained = expected_of(stored, training, share=share, names=sorted(IDS))
    parts = {"features": "features", "embeddings": "embedding"}
    queries, rows = (unit_rows(getattr(x, parts[by])) for x in (outputs, trained))
    similarities = queries @ rows.T
    order = np.argsort(-similarities, axis=1)[:, :4]
    np.testing.assert_array_equal(found["neighbors"], order)
    names = [[sorted(IDS)[i] for i in row] for row in order]
    assert found["neighbor_ids"].tolist() == names
    np.testing.assert_allclose(
        found["similarities"], np.take_along_axis(similarities, order, 1), atol=1e-5
    )

    output = capsys.readouterr().out.splitlines()
    timed = [line for line in output if line.endswith(" s")]
    for phase in (f"listing the pictures of {folder}", f"reading {stored}"):
        assert any(line.startswith(f"{phase}: ") for line in timed), phase
    assert any(line.startswith("embedding 6 pictures of ") for line in timed)
    assert not any("grey" in line for line in output)
    assert output[-2] == f"{path}: features of 5 pictures"
    assert output[-1].startswith("left out: b/broken.png cannot be used")
    about = json.loads(Path(f"{path}.json").read_text())
    assert about["view"] == {"size": 8, "mean": list(MEAN), "std": list(STD)} | {
        "share": share
    }
    assert about["compared_with"]["by"] == by
    numbering = "rows of the training split of image_folder, from 0"
    assert about["compared_with"]["neighbors"] == numbering
    assert sorted(path.parent.iterdir()) == [path, Path(f"{path}.json")]


def test_a_file_of_weights_has_features_alone(
    stored: Path, folder: Path, tmp_path: Path
) -> None:
    restored = restore_encoder(stored)
    variables = {"params": restored.params, "batch_stats": restored.batch_stats}
    np.savez(tmp_path / "weights.npz", **to_torchvision(variables))
    output = str(tmp_path / "out.npz")
    path = run(tmp_path / "weights.npz", folder, view__size=8, output=output)
    found = np.load(path)
    assert set(found) == {"ids", "features"}
    outputs = expected_of(stored, folder, share=1.0)
    np.testing.assert_allclose(found["features"], outputs.features, atol=1e-4)


def test_an_encoder_of_grey_images_sees_grey(
    folder: Path, tmp_path: Path, capsys
) -> None:
    store_run(tmp_path, (7,))
    grey = tmp_path / "grey"
    grey.mkdir()
    for name in PICTURES:
        # OpenCV's weights of red, green, blue; Pillow's are the same.
        image = Image.open(folder / name).convert("L")
        image.save(grey / Path(name).name)
    own = {"view__mean": (0.5,), "view__std": (0.25,), "num_neighbors": 0}
    found = [
        np.load(run(tmp_path, place, output=str(tmp_path / f"{i}.npz"), **own))
        for i, place in enumerate((folder, grey))
    ]
    assert set(found[0]) == {"ids", "features", "embeddings"}
    np.testing.assert_allclose(
        found[0]["embeddings"], found[1]["embeddings"], atol=0.02
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        sum("pictures in colour are converted to grey" in line for line in lines) == 2
    )


def test_by_default_it_lies_in_the_workdir(stored: Path, folder: Path) -> None:
    assert run(stored, folder) == stored / "embedded.npz"


def test_how_much_is_looked_at(stored: Path, folder: Path, tmp_path: Path) -> None:
    path = run(stored, folder, output=str(tmp_path / "out.npz"), view__size=64)
    assert json.loads(Path(f"{path}.json").read_text())["view"]["share"] == 7 / 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"checkpoint": ""}, "--config.checkpoint is missing"),
        ({"folder": ""}, "--config.folder is missing"),
        ({"folder": "/nowhere"}, "there is no folder /nowhere: set --config.folder"),
        ({"num_neighbors": NUM_EXAMPLES + 1}, "there are 12 training images"),
        ({"num_neighbors": -1}, "num_neighbors=-1"),
        ({"by": "pixels"}, "by='pixels': choose one of features, embeddings"),
        ({"compare_with": "/nowhere"}, "set --config.compare_with to the one"),
        ({"compare_with": "x", "num_neighbors": 0}, "leave compare_with=x out"),
        ({"share": 1.5}, "share=1.5"),
        ({"view__mean": (0.5,)}, "images of 3 channels, view.mean has 1"),
        (
            {"view__std": (0.0, 0.0, 0.0)},
            "view.std=(0.0, 0.0, 0.0): give numbers above 0",
        ),
        ({"output": "out.csv"}, "with .npz at its end"),
    ],
)
def test_bad_input_is_named(
    stored: Path, folder: Path, tmp_path: Path, changes: dict, expected: str
) -> None:
    output = tmp_path / "new" / "out.npz"
    with pytest.raises(UserError) as caught:
        run(stored, folder, **{"output": str(output)} | changes)
    assert expected in str(caught.value)
    assert not output.parent.exists()


def test_weights_alone_need_a_name_for_the_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--config.output is missing"):
        run(tmp_path / "weights.npz", folder)


def test_pictures_of_which_none_can_be_read(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="none of 1 picture can be used: x.png"):
        run(stored, tmp_path, output=str(tmp_path / "out.npz"))
    assert not (tmp_path / "out.npz").exists()


def test_paths_mean_the_same_as_in_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store_run(tmp_path / "runs[1]\\ \udcff", (7,), channels=3)
    (tmp_path / "pictures").symlink_to(folder)
    given = Path("~/runs[1]\\ \udcff"), Path("~/pictures")
    assert run(*given) == tmp_path / "runs[1]\\ \udcff" / "embedded.npz"
    path = run(*given, output="~/new/out.npz")
    assert path == tmp_path / "new/out.npz" and path.is_file()


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"checkpoint": "gs://b/run"}, "checkpoint=gs://b/run is an address"),
        ({"folder": "gs://b/run"}, "folder=gs://b/run is an address"),
        ({"output": "gs://b/out.npz"}, "output=gs://b/out.npz is an address"),
        ({"output": "{file}/x/out.npz"}, "cannot be written"),
    ],
)
def test_places_are_looked_at_before_anything_is_read(
    stored: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch,
    changes: dict,
    expected: str,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "list_pictures", None)
    changes = {k: x.format(file=tmp_path / "file") for k, x in changes.items()}
    with pytest.raises(UserError, match=expected):
        run(stored, folder, **changes)
