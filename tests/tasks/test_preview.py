"""The preview shows what the step sees, at its place in the sheet."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict
from PIL import Image

from configs import default, digits
from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.errors import UserError
from invariance_propagation.methods import Batch, table
from invariance_propagation.models import Encoder
from invariance_propagation.parallel import AXIS
from invariance_propagation.tasks import preview
from invariance_propagation.tasks.preview import describe, draw_preview, sheet
from invariance_propagation.train import build
from invariance_propagation.train.run import init_state, plain_view, views_of
from invariance_propagation.train.step import moment_of
from tests.tiny_run import tiny_config


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Returns 40 pictures in colour, wider than high."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(40):
        pixels = random.integers(0, 256, (10, 14, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def streamed_config(folder: Path) -> Any:
    config = default.get_config()
    config.num_devices = 2
    config.encoder.update(depth=6, stem="cifar", width=4, hidden=8, norm_group=0)
    config.augment.size = 8
    config.knn.num_neighbors = 3
    config.method.background_size = 16
    config.data.update(name="image_folder", folder=str(folder))
    config.train.update(batch_size=8, epochs=3)
    return config


class Average(nn.Module):
    """A backbone that compiles at once."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train)
        return norm(images.mean(axis=(1, 2)))


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_views_are_those_of_the_step(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bind, seen = table.find_method("invariance_propagation"), []

    @functools.wraps(bind)
    def bind_and_watch(**options: Any) -> Any:
        def prepare(batch: Any, moment: Any) -> Any:
            shown = batch.indices, batch.views["view"][0]
            jax.debug.callback(lambda *x: seen.append(x), *shown)
            return batch

        return bind(**options)._replace(prepare=prepare)

    @functools.wraps(build.make_encoder)
    def make_quick_encoder(**options: Any) -> nn.Module:
        return Encoder(Average(), "linear", dim=options["dim"])

    monkeypatch.setattr(table, "find_method", lambda *_, **__: bind_and_watch)
    monkeypatch.setattr(build, "make_encoder", make_quick_encoder)
    config = tiny_config() if kind == "resident" else streamed_config(pictures)
    run = build.build(config)
    state, steps = init_state(run), run.steps_per_epoch + 1
    for step, given in enumerate(run.input.feed(start=0, stop=steps)):
        seen.clear()
        state, _ = jax.block_until_ready(run.step(state, *given))
        jax.effects_barrier()
        if step in (0, steps - 1):
            indices = np.concatenate([np.asarray(x[0]) for x in seen])
            views = np.concatenate([np.asarray(x[1]) for x in seen])
            assert len(indices) == run.options.batch_size
            found = views_of(run, step // run.steps_per_epoch, indices)["view"][0]
            np.testing.assert_allclose(found, views, atol=1e-4)


def test_each_group_of_views_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(columns: dict, rows: list, caption: list) -> Image.Image:
        drawn.append((list(columns), caption))
        return sheet(columns, rows, caption)

    monkeypatch.setattr(preview, "sheet", draw)
    config = digits.get_config("coke")
    config.output = str(tmp_path / "sheet.png")
    config.num_devices, config.data.num_train, config.train.batch_size = 1, 64, 32
    config.encoder.update(depth=6, width=4, hidden=8)
    config.method.views = "multi_crop"
    config.views.second.solarize = 1.0
    draw_preview(config)
    ((columns, caption),) = drawn
    # Two views and six small ones: one epoch is all that a sheet can hold.
    assert len(columns) == 9 and columns[-1] == "epoch 0\nsmall 6"
    told = [line for line in caption if "pixels. On: " in line]
    assert [line.partition(" pixels")[0] for line in told] == [
        "'first': views of 8x8",
        "'second': views of 8x8",
        "'small': views of 6x6",
    ]
    assert ["solarize in 100%" in line for line in told] == [False, True, False]


def test_the_sheet_of_digits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tiny_config(output=str(tmp_path / "sheet.png"))
    assert draw_preview(config) == tmp_path / "sheet.png"
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image)
    images = build.build(config).dataset.train.images
    # Each is shown once as evaluation sees it: unchanged, its pixels enlarged to squares.
    for index in (0, 255):
        assert len(places(pixels, np.kron(images[index, :, :, 0], np.ones((12, 12)))))


def places(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Finds the top left corners of a grey picture in a sheet."""
    height, width = picture.shape
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], picture.shape)
    # A diagonal rules nearly all places out.
    step = np.arange(height)
    near = np.argwhere((windows[..., step, step] == picture[step, step]).all(axis=-1))
    return [(y, x) for y, x in near if (windows[y, x] == picture).all()]


def test_streamed_pictures_are_drawn(pictures: Path, tmp_path: Path) -> None:
    config = streamed_config(pictures)
    config.output = str(tmp_path / "sheet.png")
    draw_preview(config)
    with Image.open(tmp_path / "sheet.png") as image:
        width, height = image.size
    # Twelve images, each as evaluation sees it and in all of the three epochs.
    assert 12 * 96 < height and 4 * 96 < width < 6 * 96


def test_what_the_method_makes_of_the_views_is_drawn(tmp_path: Path) -> None:
    config = tiny_config(output=str(tmp_path / "sheet.png"), train__epochs=2)
    with config.unlocked():
        inner = config.method.copy_and_resolve_references()
        mixture = {"global_probability": 0.0, "alpha": 1.0}
        config.method = ConfigDict({"name": "unmix", **mixture, "inner": inner})
    draw_preview(config)
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image)
    run = build.build(config)
    indices = np.linspace(0, 255, 12).round().astype(np.int32)
    for epoch in range(2):
        views = views_of(run, epoch, indices)
        batch = Batch(
            jnp.asarray(indices),
            views,
            {},
            per_image_keys(run.seed, epoch, jnp.asarray(indices)),
        )
        moment = moment_of(
            jnp.int32(epoch * run.steps_per_epoch), run.seed, run.steps_per_epoch
        )
        batch = jax.tree.map(lambda x: x[None], batch)
        prepare = jax.vmap(run.method.prepare, (0, None), axis_name=AXIS)
        mixed = prepare(batch, moment).views["mixed view"][0, 0]
        lefts = []
        for column in (views["view"][0], mixed):
            shown = preview.visible(run, column)[5, :, :, 0]
            ((_, left),) = places(pixels, np.kron(shown, np.ones((12, 12))))
            lefts.append(left)
        assert lefts[0] < lefts[1]  # the view beside what is made of it
        assert not np.array_equal(views["view"][0, 5], mixed[5])


def test_each_frame_of_a_clip_is_drawn(tmp_path: Path) -> None:
    config = tiny_config(output=str(tmp_path / "sheet.png"), train__epochs=2)
    with Image.open(draw_preview(config)) as image:
        plain = image.size
    with config.unlocked():
        config.method = ConfigDict({"name": "tests.toys:tracking", "frames": 3})
    draw_preview(config)
    with Image.open(config.output) as image:
        # Six columns for two epochs, where there were two.
        assert image.size[0] - plain[0] == 4 * (96 + 7)


@pytest.mark.parametrize("size, cell", [(8, 96), (28, 84), (200, 200)])
def test_each_picture_lies_in_its_row_and_column(size: int, cell: int) -> None:
    colors = {(i, j): (10 + 20 * i, 30 * j, 77) for i in range(3) for j in range(4)}
    columns = {
        f"epoch {j}": np.stack(
            [np.full((size, size, 3), colors[i, j], np.uint8) for i in range(3)]
        )
        for j in range(4)
    }
    rows = [f"image {10**i}" for i in range(3)]
    pixels = np.asarray(sheet(columns, rows, ["One line.", "word " * 100]))
    corners = {}
    for place, color in colors.items():
        ys, xs = np.nonzero((pixels == color).all(axis=2))
        corners[place] = top, left = ys.min(), xs.min()
        assert len(ys) == cell**2
        assert ys.max() - top + 1 == xs.max() - left + 1 == cell
    for i, j in colors:
        assert corners[i, j] == (corners[i, 0][0], corners[0, j][1])
    assert np.all(np.diff([corners[i, 0][0] for i in range(3)]) > cell)
    assert np.all(np.diff([corners[0, j][1] for j in range(4)]) > cell)
    # Nothing is cut off: the margin is white all around.
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 255).all()


def test_gray_and_coloured_pictures_keep_their_values() -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) * 4
    pixels = np.asarray(sheet({"a": ramp}, ["b"], []))
    assert places(pixels, np.kron(ramp[0, ..., 0], np.ones((12, 12), np.uint8)))
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_views_are_made_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    run = build.build(config)
    images = run.dataset.train.images[:5]
    shown = preview.visible(run, plain_view(run.chances, images))
    np.testing.assert_array_equal(shown, images)


def test_what_is_on_is_said() -> None:
    chances = default.get_config().augment.to_dict()
    on, off = describe(chances, channels=3)
    assert on == (
        "On: crop of 20% to 100% of the area; jitter in 80% of the views (brightness "
        "0.4, contrast 0.4, saturation 0.4, hue 0.1); grey in 20% of the views; blur "
        "in 50% of the views (sigma 0.1 to 2 pixels); flip in 50% of the views"
    )
    assert off == "Off: rotation, shear, stretch, solarize"
    on, off = describe(chances | {"rotation": 7.5, "stretch": 0.2}, channels=1)
    assert "hue" not in on and "grey" in off
    assert "rotation up to 7.5 degrees; stretch up to 20%" in on
    on, _ = describe(chances | {"solarize": 0.2}, channels=3)
    assert "solarize in 20% of the views; flip" in on
    nothing = dict.fromkeys(("rotation", "shear", "stretch", "blur", "flip"), 0)
    nothing |= {"crop_scale": (), "jitter": (), "grayscale": 0}
    assert describe(chances | nothing, channels=3)[0] == "On: nothing"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("sheet.jpg", "sheet.jpg: set --config.output to a .png file"),
        ("nowhere/sheet.png", "there is no folder"),
        ("folder.png", "is a folder"),
    ],
)
def test_bad_output(tmp_path: Path, output: str, expected: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=expected):
        draw_preview(tiny_config(output=str(tmp_path / output)))
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.png"]
