"""Every file of a checkpoint damaged in four ways, with an older one whole."""

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invariance_propagation.store.checkpoint import FOLDER, Checkpoints, steps_in
from invariance_propagation.store.facts import checksum as crc32
from invariance_propagation.store.facts import leaves_of, read_facts
from invariance_propagation.train.build import build
from invariance_propagation.train.run import state_shapes
from tests.tiny_run import tiny_config
from tests.torture.runs import Outcome


@contextlib.contextmanager
def without_errors() -> Iterator[None]:
    """Drops what libraries print of each file that they cannot read."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        place = random.Random(str(path.name)).randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def checksums(state: Any) -> dict[str, int]:
    """Returns the CRC-32 of each array of a state, by its name in the facts."""
    return {name: crc32(leaf) for name, leaf in leaves_of(state).items()}


def files(folder: Path, finished: Path, *, flips: int) -> Outcome:
    """Damages each file of the newest checkpoint of a finished run.

    Args:
      folder: to work in.
      finished: workdir with at least two checkpoints.
      flips: how many single bits to flip in each file; the other ways are tried once.
    """
    run = build(tiny_config())
    shapes = state_shapes(run)
    newest, *_ = steps = steps_in(finished)
    expected = {
        step: {
            name: fact["crc32"]
            for name, fact in read_facts(finished / FOLDER / str(step))[
                "arrays"
            ].items()
        }
        for step in steps
    }
    root = finished / FOLDER / str(newest)
    names = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    ways = [delete, empty, halve, *[flip] * flips]
    failures, tried, set_aside = [], 0, 0
    for name in names:
        for way in ways:
            workdir = folder / "damaged"
            shutil.copytree(finished / FOLDER, workdir / FOLDER)
            way(workdir / FOLDER / str(newest) / name)
            tried += 1
            try:
                with (
                    without_errors(),
                    contextlib.closing(Checkpoints(workdir, keep=9)) as found,
                ):
                    step, state, _ = found.restore(shapes)
                set_aside += step != newest
                if checksums(state) != expected[step]:
                    failures.append(f"{way.__name__} {name}: wrong values in silence")
            except Exception as error:
                failures.append(f"{way.__name__} {name}: refused: {error}")
            shutil.rmtree(workdir)
    note = f"{len(names)} files; the older checkpoint was taken {set_aside} times"
    return Outcome("a file of the newest checkpoint damaged", tried, failures, note)
