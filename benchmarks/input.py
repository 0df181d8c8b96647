"""Input at the decoder's speed: the pipeline beside bare decoding and cropping.

    python benchmarks/input.py

JPEG files of about ImageNet's mean size, read, decoded by simplejpeg, cropped and
resized to 224 pixels by Pillow's antialiased bilinear filter: in a bare loop of one
thread, with boxes that are known before, and by the pipeline of a run, in turn, so that
a ratio compares neighbours in time. Also how long the host takes for a step whose
images lie on the device. Goals are printed beside what was measured and never asserted.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from absl import flags
from PIL import Image
from provenance import write_result
from rehearsal import QUALITY, crop, shipped_pictures

FILES, BATCH, SIZE = 64, 64, 224
CROP = {"crop_scale": (0.2, 1.0), "crop_ratio": (3 / 4, 4 / 3)}
GOAL, HOST_GOAL = 0.85, 1.0
PIPELINES = {
    "1 thread": (1, 0),
    "2 threads": (2, 0),
    "4 threads": (4, 0),
    "2 workers of 1 thread": (1, 2),
}


class Files(NamedTuple):
    """Reads the file of an index, which may be beyond the last."""

    paths: list[Path]

    def __call__(self, index: int) -> bytes:
        return self.paths[index % len(self.paths)].read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=24, help="in each measurement")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes want it
    with tempfile.TemporaryDirectory() as folder:
        files = Files(write_pictures(Path(folder)))
        found = measure(files, options.rounds, options.batches)
    bare = found.pop("bare")
    print(f"bare, one thread: {statistics.median(bare):.0f} images/s")
    rows = {}
    for name, rates in found.items():
        ratio = statistics.median(np.divide(rates, bare))
        goal = f" (goal {GOAL})" if name == "1 thread" else ""
        print(
            f"pipeline, {name}: {statistics.median(rates):.0f} images/s, "
            f"{ratio:.2f} of bare{goal}"
        )
        rows[name] = {"images_per_second": rates, "ratio": ratio}
    host = host_milliseconds()
    print(f"host, images on the device: {host:.3f} ms a step (goal below {HOST_GOAL})")
    record = {"bare_images_per_second": bare, "pipeline": rows, "goal": GOAL}
    record |= {"host_milliseconds_per_step": host, "rounds": options.rounds}
    print(f"written to {write_result('input', json.loads(json.dumps(record)))}")


def write_pictures(folder: Path) -> list[Path]:
    random, photos = np.random.default_rng(0), shipped_pictures()
    paths = [folder / f"{i:02}.jpg" for i in range(FILES)]
    for i, path in enumerate(paths):
        crop(photos[i % len(photos)], random).save(path, quality=QUALITY)
    return paths


def measure(files: Files, rounds: int, batches: int) -> dict[str, list[float]]:
    """Images per second of each way, in each round."""
    from invariance_propagation.data.load.pictures import Pictures, crops
    from invariance_propagation.data.load.stream import Load, stream

    # What is in the buffers at the start is made up for by what is in them at the end.
    last = 2 + batches + 4
    examples = last * BATCH
    pictures = Pictures(range(examples), files, size=SIZE, where="")
    make = partial(crops, size=SIZE, **CROP)
    load = Load(pictures, [[make]], seed=0, batch_size=BATCH)

    def pipeline(threads: int, workers: int) -> float:
        batched = stream(
            load, start=0, stop=last, num_threads=threads, num_workers=workers
        )
        next(batched)
        next(batched)
        found = rate(lambda: sum(len(next(batched)[0]) for _ in range(batches)))
        batched.close()
        return found

    boxes = known_boxes(files, examples)

    def bare() -> int:
        for index in range(batches * BATCH):
            image = simplejpeg.decode_jpeg(files(index), "RGB")
            top, left, height, width = boxes[index]
            part = image[top : top + height, left : left + width]
            # OpenCV has no antialiased bilinear resize: INTER_AREA is another filter.
            whole = Image.fromarray(part)
            np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return batches * BATCH

    found: dict[str, list[float]] = {name: [] for name in ("bare", *PIPELINES)}
    for _ in range(rounds):
        found["bare"].append(rate(bare))
        for name, (threads, workers) in PIPELINES.items():
            found[name].append(pipeline(threads, workers))
    return found


def rate(make: Callable[[], int]) -> float:
    start = time.perf_counter()
    count = make()
    return count / (time.perf_counter() - start)


def known_boxes(files: Files, count: int) -> list[tuple[int, ...]]:
    """The boxes of the pipeline's first epoch, in whole pixels."""
    from invariance_propagation.data.views.chance import NUMBERS
    from invariance_propagation.data.views.geometry import crop_box
    from invariance_propagation.data.views.threefry import host_uniforms

    uniforms = host_uniforms(0, 0, np.arange(count), NUMBERS)
    shape = simplejpeg.decode_jpeg_header(files(0))[:2]
    boxes = [crop_box(u, shape, *CROP.values()) for u in uniforms]
    return [tuple(int(x) for x in np.floor(box)) for box in boxes]


def host_milliseconds(steps: int = 400) -> float:
    """Per step, of handing indices to the device when it holds the images."""
    import jax

    from configs import digits
    from invariance_propagation.train.build import build

    run = build(digits.get_config())
    feed: Any = run.input.feed(start=0, stop=steps + 1)
    jax.block_until_ready(next(feed))
    start = time.perf_counter()
    for _ in range(steps):
        given = next(feed)
    jax.block_until_ready(given)
    return 1000 * (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
