"""Draws a sheet of augmented pictures: what training will see."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.errors import UserError, plural
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import check_file, local, not_writable
from invariance_propagation.methods import Batch
from invariance_propagation.parallel import AXIS
from invariance_propagation.train.build import build
from invariance_propagation.train.run import Run, plain_view, views_of
from invariance_propagation.train.step import moment_of

OUTPUT = "preview.png"
ROWS, EPOCHS = 12, 7
MOST_VIEWS = 14  # of an image; a method with many views gets fewer epochs
# Smaller pictures are enlarged to about this many pixels; larger ones keep their size.
CELL = 96
INK, PAPER = "#222222", "#ffffff"
ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")


def draw_preview(config: ConfigDict) -> Path:
    """Draws some training images as evaluation sees them, and as some epochs do.

    Views are functions of (seed, epoch, image), so these are exactly the views that
    training with this config makes. What a method makes of a whole batch, such as
    mixtures, is made of these images as if they were the first batch of an epoch.

    Returns:
      The path of the PNG file.

    Raises:
      UserError: bad input; nothing has been written.
    """
    path = _output(config.output)
    run = build(config)
    indices = np.linspace(0, run.num_examples - 1, min(ROWS, run.num_examples))
    indices = indices.round().astype(np.int32)
    most = max(1, MOST_VIEWS // sum(run.method.requires.views.values()))
    epochs = range(min(EPOCHS, most, run.options.epochs))
    columns = {"evaluation": visible(run, _plain(run, indices))}
    prepare, made = _prepares(run, indices), []
    for epoch in tqdm.tqdm(epochs, unit="epoch", disable=None, leave=False):
        groups = prepare(epoch)
        made = [name for name in groups if name not in run.looks]
        for title, views in _titled(groups):
            columns[f"epoch {epoch}\n{title}".strip()] = visible(run, views)
    caption = [
        f"{run.dataset.name}: {len(indices)} of {run.num_examples:,} training images, "
        f"seed {run.seed}. Evaluation sees the first column, training the others, epoch "
        "by epoch."
        + "".join(
            f" The method makes '{name}' of the images in this sheet." for name in made
        ),
    ]
    for name, look in run.looks.items():
        on, off = describe(look.chances, channels=columns["evaluation"].shape[3])
        size = look.chances["size"]
        title = "Views" if len(run.looks) == 1 else f"'{name}': views"
        caption += [f"{title} of {size}x{size} pixels. {on}", off]
    drawn = sheet(columns, [f"image {i}" for i in indices], caption)
    try:
        with draft_of(path) as draft:
            drawn.save(draft, format="PNG")
    except OSError as error:
        raise not_writable(path, error, key="--config.output") from error
    print(f"views of {len(indices)} images in {plural(len(epochs), 'epoch')}: {path}")
    return path


def describe(chances: Mapping[str, Any], *, channels: int) -> list[str]:
    """Lists which augmentations are on, with their strengths, and which are off.

    Args:
      chances: options of `augment`.
      channels: C of the images; with C = 1, augmentations of colour count as off.

    Returns:
      Two lines.
    """
    strengths = [
        f"{name} {strength:g}"
        for name, strength in zip(ADJUSTMENTS, chances["jitter"] or (), strict=False)
        if strength and (channels == 3 or name in ADJUSTMENTS[:2])
    ]
    low, high = chances["crop_scale"] or (1, 1)
    jitter = chances["jitter_probability"] if strengths else 0
    gray = chances["grayscale"] if channels == 3 else 0
    blur = "sigma {:g} to {:g} pixels".format(*chances["blur_sigma"])
    strength_of = {
        "crop": f"of {low:.0%} to {high:.0%} of the area" if low < 1 else "",
        "rotation": _up_to(chances["rotation"], "{:g} degrees"),
        "shear": _up_to(chances["shear"], "{:g}"),
        "stretch": _up_to(chances["stretch"], "{:.0%}"),
        "jitter": _share(jitter, ", ".join(strengths)),
        "grey": _share(gray),
        "blur": _share(chances["blur"], blur),
        "solarize": _share(chances.get("solarize", 0)),
        "flip": _share(chances["flip"]),
    }
    on = "; ".join(f"{name} {text}" for name, text in strength_of.items() if text)
    off = ", ".join(name for name, text in strength_of.items() if not text)
    return [f"On: {on or 'nothing'}", f"Off: {off or 'nothing'}"]


def sheet(
    columns: Mapping[str, np.ndarray], rows: Sequence[str], caption: Sequence[str]
) -> Image.Image:
    """Draws a table of pictures with titles, below a caption.

    Args:
      columns: for each title, uint8 [n, size, size, C] with C = 3 or 1. All columns are
        shown at the size of the first. Small pictures are enlarged, so that pixels are
        visible as squares.
      rows: n titles.
      caption: paragraphs, wrapped to the width of the table.
    """
    size = next(iter(columns.values())).shape[1]
    cell = size * max(1, round(CELL / size))
    font = ImageFont.load_default(max(15, cell // 10))
    em = round(font.size)
    gap, margin = em // 2, em
    pitch = cell + gap
    left = round(2 * margin + max(map(font.getlength, rows)))
    width = left + len(columns) * pitch + gap + margin
    text = "\n".join(
        line for text in caption for line in _wrap(text, font, width - 2 * margin)
    )
    blank = ImageDraw.Draw(Image.new("1", (1, 1)))
    lines = max(title.count("\n") for title in columns) + 1
    above = round((1.5 + 1.25 * lines) * em)
    top = round(blank.multiline_textbbox((0, 0), text, font)[3]) + margin + above
    image = Image.new("RGB", (width, top + len(rows) * pitch + margin), PAPER)
    draw = ImageDraw.Draw(image)
    draw.multiline_text((margin, margin), text, INK, font)
    for i, title in enumerate(rows):
        draw.text((margin, top + i * pitch + cell / 2), title, INK, font, anchor="lm")
    for j, (title, pictures) in enumerate(columns.items()):
        # Keep the first column apart from the others.
        x = left + j * pitch + gap * (j > 0)
        for above, line in enumerate(title.split("\n")[::-1]):
            y = top - em / 2 - 1.25 * em * above
            draw.text((x + cell / 2, y), line, INK, font, anchor="ms")
        for i, picture in enumerate(pictures):
            colors = np.broadcast_to(picture, (*picture.shape[:2], 3))
            big = Image.fromarray(colors)
            big = big.resize((cell, cell), Image.Resampling.NEAREST)
            image.paste(big, (x, top + i * pitch))
    return image


def _prepares(run: Run, indices: np.ndarray) -> Callable[[int], dict[str, jax.Array]]:
    """Returns a function from an epoch to the views of images as the network gets them."""
    prepare = jax.jit(jax.vmap(run.method.prepare, (0, None), axis_name=AXIS))
    known = run.dataset.train.columns
    columns = {name: known[name][indices] for name in run.method.requires.columns}

    def prepared(epoch: int) -> dict[str, jax.Array]:
        batch = Batch(
            jnp.asarray(indices),
            views_of(run, epoch, indices),
            columns,
            per_image_keys(run.seed, epoch, jnp.asarray(indices)),
        )
        first = jnp.int32(epoch * run.steps_per_epoch)
        moment = moment_of(first, run.seed, run.steps_per_epoch)
        one_device = jax.tree.map(lambda x: x[None], batch)
        groups = prepare(one_device, moment).views
        # A compiled function returns a dict in alphabetical order.
        order = sorted(groups, key=lambda name: name not in run.looks)
        return {name: groups[name][0] for name in order}

    return prepared


def _titled(groups: Mapping[str, jax.Array]) -> Iterator[tuple[str, jax.Array]]:
    """Yields each picture of each group, with '' as its title if there is only one.

    Args:
      groups: by name, float32 [v, n, size, size, C], or [v, n, frames, size, size, C].
    """
    for name, views in groups.items():
        for number, view in enumerate(views, 1):
            title = f"{name} {number}" if len(views) > 1 else name
            clips = view.reshape(len(view), -1, *view.shape[-3:])
            several = clips.shape[1] > 1
            for frame in range(clips.shape[1]):
                shown = f"{title}, frame {frame + 1}" if several else title
                alone = len(groups) == len(views) == clips.shape[1] == 1
                yield "" if alone else shown, clips[:, frame]


def _plain(run: Run, indices: np.ndarray) -> np.ndarray:
    images = run.dataset.train.images
    # Streamed pictures are evaluated by slices.
    return plain_view(run.chances, np.concatenate([images[i : i + 1] for i in indices]))


def visible(run: Run, views: np.ndarray) -> np.ndarray:
    """Turns normalised views back into uint8 pictures."""
    mean, std = jnp.array(run.chances["mean"]), jnp.array(run.chances["std"])
    return np.asarray(jnp.round(255 * jnp.clip(views * std + mean, 0, 1)), np.uint8)


def _output(name: str) -> Path:
    path = local(name or OUTPUT, key="output")
    if path.suffix.lower() != ".png":
        raise UserError(f"output={name}: set --config.output to a .png file")
    if not path.parent.is_dir():
        raise UserError(f"output={name}: there is no folder {path.parent}; create it")
    if path.is_dir():
        raise UserError(
            f"output={name} is a folder: set --config.output to a file in it"
        )
    check_file(path, key="--config.output")
    return path


def _up_to(limit: float, form: str) -> str:
    return "up to " + form.format(limit) if limit else ""


def _share(probability: float, detail: str = "") -> str:
    if not probability:
        return ""
    return f"in {probability:.0%} of the views" + (f" ({detail})" if detail else "")


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    yield line
