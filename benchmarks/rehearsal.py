"""ImageNet's run on a machine without ImageNet: its config, its layout, its bank.

    python benchmarks/rehearsal.py

Pictures cropped from those that scikit-learn and scikit-image ship are stored as TFDS
stores imagenet2012, and repeated to its 1,281,167 records. configs/imagenet.py, with
another batch, folder, number of steps and of steps per row, then trains some steps, saves,
and continues in another process. It shows that the code copes with the size, and nothing
about accuracy.
"""

import argparse
import functools
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from provenance import write_result

EXAMPLES = 1_281_167
SIZES = {"train": 256, "validation": 64}
BATCH = 32  # one group of BatchNorm
WIDTH, HEIGHT, QUALITY = 500, 375, 92  # about ImageNet's mean picture


class Rehearsal(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """imagenet2012 as TFDS lays it out, with other pictures in it."""

    name = "imagenet2012"
    VERSION = tfds.core.Version("5.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=1000),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, manager: Any) -> dict[str, Iterator]:
        del manager
        return {name: self._generate_examples(name) for name in SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        random = np.random.default_rng(len(split))
        photos = shipped_pictures()
        for i in range(SIZES[split]):
            photo = photos[i % len(photos)]
            file = io.BytesIO()
            crop(photo, random).save(file, "JPEG", quality=QUALITY)
            file.seek(0)
            name = f"{split}_{i}.JPEG"
            yield name, {"image": file, "label": i % len(photos), "file_name": name}


class Repeated(NamedTuple):
    """Reads the picture of an index that may be beyond the last."""

    content: Any
    count: int

    def __call__(self, index: int) -> bytes:
        return self.content(index % self.count)

    def mark(self, index: int) -> bytes:
        """As `Pictures.mark`."""
        return self.content.mark(index % self.count)


def shipped_pictures() -> list[Image.Image]:
    """Photographs inside scikit-learn and scikit-image."""
    import skimage
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "chelsea", "coffee", "rocket")
    photos = [getattr(skimage.data, name)() for name in names]
    return [Image.fromarray(x) for x in (*load_sample_images().images, *photos)]


def crop(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of it, enlarged or reduced to the usual size."""
    share = random.uniform(0.4, 1.0)
    width, height = (max(1, int(side * share)) for side in photo.size)
    left = int(random.uniform(0, photo.width - width))
    top = int(random.uniform(0, photo.height - height))
    box = (left, top, left + width, top + height)
    return photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)


def prepare(folder: Path) -> None:
    Rehearsal(data_dir=folder, file_format="array_record").download_and_prepare()


def repeat(examples: int) -> None:
    """Makes ImageNet, whenever it is loaded from now on, this number of images long."""
    from invariance_propagation.data import sources
    from invariance_propagation.data.dataset import Split
    from invariance_propagation.data.load.pictures import Pictures

    load_stored = sources.find_loader("imagenet")

    @functools.wraps(load_stored.__call__)
    def load(folder: str, **options: Any) -> Any:
        dataset = load_stored(folder, **options)
        images, labels, ids, _ = dataset.train
        ids = [f"{ids[i % len(ids)]}#{i // len(ids)}" for i in range(examples)]
        content = Repeated(images.content, len(images))
        pictures = Pictures(ids, content, size=images.size, where=images.where)
        train = Split(pictures, np.resize(labels, examples), ids)
        return dataset._replace(train=train)

    sources.LOADERS["imagenet"] = load


def train(folder: Path, workdir: Path, batch: int, steps: int) -> dict[str, Any]:
    """Some steps of configs/imagenet.py in this process; what they took."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from configs import imagenet
    from invariance_propagation.errors import Stopped
    from invariance_propagation.train.journal import read_rows
    from invariance_propagation.train.pretrain import train_and_evaluate

    repeat(EXAMPLES)
    config = imagenet.get_config()
    config.data.folder = str(folder)
    config.train.batch_size = batch
    config.train.stop_after_steps = steps
    config.train.log_every = max(1, steps // 2)
    start = time.monotonic()
    try:
        train_and_evaluate(config, str(workdir))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
    rows = [row for row in read_rows(workdir) if "loss" in row]
    return {
        "seconds": time.monotonic() - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "last_row": rows[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/rehearsal", help="for all it makes")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=8, help="of each of two processes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    data, workdir = Path(options.folder, "tfds"), Path(options.folder, "workdir")
    if options.child:
        print(json.dumps(train(data, workdir, options.batch, options.steps)))
        return
    if workdir.exists():
        sys.exit(f"{workdir} is there: remove it, or choose another --folder")
    prepare(data)
    runs = []
    for name in ("from the start", "resumed"):
        command = [sys.executable, *sys.argv, "--child"]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if process.returncode:
            sys.exit(process.returncode)
        *said, record = process.stdout.splitlines()
        runs.append(json.loads(record))
        print("\n".join(said))
        run = runs[-1]
        print(
            f"{name}: {run['seconds']:.0f} s, of memory {run['peak_bytes'] / 1e9:.1f} "
            f"GB; {run['last_row']['images_per_second']:.2f} images/s, waiting for data "
            f"{run['last_row']['waiting_for_data']:.1%} of the time"
        )
    newest = max(Path(workdir, "checkpoints").iterdir(), key=lambda p: int(p.name))
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    print(f"checkpoint of step {newest.name}: {size / 1e9:.2f} GB")
    record = {"examples": EXAMPLES, "batch": options.batch, "steps": options.steps}
    record |= {"runs": runs, "checkpoint_bytes": size}
    print(f"written to {write_result('rehearsal', record)}")


if __name__ == "__main__":
    main()
