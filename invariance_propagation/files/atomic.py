"""Writes files whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from invariance_propagation.signals import not_now, undone_at_end


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; after the block it replaces `path`.

    If the block fails or a signal ends the process, the draft is removed and `path` stays
    as it was. Missing folders are created.
    """
    with drafts_of(path) as (draft,):
        yield draft


@contextlib.contextmanager
def drafts_of(*paths: Path) -> Iterator[list[Path]]:
    """Does what `draft_of` does, for files that must be replaced together."""
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
    """Removes a file, if it exists, after the block or if the process ends inside it."""
    with undone_at_end(partial(_remove, path)):
        try:
            yield
        finally:
            _remove(path)


def _remove(path: Path) -> None:
    # The error of the block, if any, matters more.
    with contextlib.suppress(OSError):
        path.unlink()
