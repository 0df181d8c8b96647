"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from invariance_propagation.signals import not_now, undone_at_end


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yields a file beside `path` to write, which takes its place once that has succeeded.

    Nothing stays of it otherwise, and `path` is as it was; not even where a signal ends
    the process. Folders are made.
    """
    with drafts_of(path) as (draft,):
        yield draft


@contextlib.contextmanager
def drafts_of(*paths: Path) -> Iterator[list[Path]]:
    """Does what `draft_of` does for files that belong together: all take their places."""
    with contextlib.ExitStack() as stack:
        drafts = []
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            drafts.append(path.with_name(f"{path.name}.{os.getpid()}.tmp"))
            stack.enter_context(removed_at_end(drafts[-1]))
        yield drafts
        with not_now():
            for draft, path in zip(drafts, paths, strict=True):
                os.replace(draft, path)


@contextlib.contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """Removes a file, if it is there, after the block or where the process ends in it."""
    with undone_at_end(partial(_remove, path)):
        try:
            yield
        finally:
            _remove(path)


def _remove(path: Path) -> None:
    # What has failed is told by the error of the block.
    with contextlib.suppress(OSError):
        path.unlink()
