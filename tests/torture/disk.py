"""Disks that become full, at different places of a run."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.torture.runs import Outcome, compare, finish, finish_as, lines_of

NAME = "the disk is full"


@contextmanager
def small_disk(place: Path, *, size: int) -> Iterator[None]:
    """Mounts a disk of some KiB in memory; needs root."""
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def enlarge(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=256m", place], check=True)


def full(folder: Path, expected: dict[str, Any], *, finished: Path, count: int):
    """Runs on disks of `count` sizes, up to what the run needs, and goes on with more."""
    try:
        with small_disk(folder / "probe", size=64):
            pass
    except (OSError, subprocess.CalledProcessError):
        return Outcome(NAME, 0, [], "left out: only root can mount a small disk")
    # A finished run, and the checkpoint that is written before an old one is deleted.
    need = 2 * sum(p.stat().st_blocks for p in finished.rglob("*")) // 2
    failures, refused, whole = [], 0, 0
    for number in range(count):
        size = need * (number + 1) // count
        disk = folder / f"disk_{number}"
        with small_disk(disk, size=size):
            workdir = disk / "run"
            status, errors = finish(workdir)
            lines = lines_of(errors)
            wrong = []
            if status == 0:
                whole += 1
                late = compare(workdir, expected)
            else:
                refused += 1
                said = status in (1, 2) and len(lines) == 1
                if not (said and "space" in lines[0]):
                    wrong.append(f"status {status}: {errors.strip()[-400:]!r}")
                enlarge(disk)
                late = finish_as(workdir, expected)
            wrong += [late] if late else []
            if wrong:
                failures.append(f"{size} KiB: {'; '.join(wrong)}")
            shutil.rmtree(workdir, ignore_errors=True)
    note = (
        f"{refused} ended in one line and went on once there was space; {whole} fitted"
    )
    return Outcome(NAME, count, failures, note)
