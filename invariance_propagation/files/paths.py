"""Resolves paths that people type, and explains why one cannot be used."""

import contextlib
import errno
import os
import re
import stat
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from invariance_propagation.errors import TrainingError, UserError

# As in gs://bucket/run, or gs:/bucket/run, into which pathlib turns it. A single letter
# before a single slash may be the name of a folder.
ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]+:/|[a-z]://)", re.IGNORECASE)
# Orbax finds its files by patterns that include the folder's name unescaped.
IN_PATTERNS = frozenset("*?[]\\")
# etils takes /gs/bucket for gs://bucket.
TOP_FOLDERS_OF_ETILS = frozenset({"gs", "s3", "az", "hf"})
OPEN_FOLDERS = Path("/proc/self/fd")
FULL = (errno.ENOSPC, errno.EDQUOT)


def local(path: str | Path, *, key: str) -> Path:
    """Returns the absolute path that a user means; `~` stands for the home folder.

    Args:
      path: as typed.
      key: the flag that it was typed for, to be named in messages.

    Raises:
      UserError: it is an address such as gs://bucket/run, names an unknown user's home,
        or cannot be a path.
    """
    text = os.fspath(path)
    if ADDRESS.match(text):
        raise UserError(
            f"{key}={text} is an address, and only files and folders of this machine "
            "can be used: name a folder here (a bucket can be mounted, as by gcsfuse "
            "or s3fs), and copy from or to the address"
        )
    if "\0" in text:
        raise UserError(f"{key}={text!r} has a zero byte, which no path can have")
    home = os.path.expanduser(text)
    if home == text and text.startswith("~"):
        user, *_ = text.split("/")
        raise UserError(
            f"{key}={text}: there is no home folder for {user}; write ./{text} for a "
            "folder of that name"
        )
    try:
        absolute = Path(home).absolute()
    except OSError as error:
        raise UserError(
            f"{key}={text}: the current folder cannot be used ({reason(error)}): "
            "change to another"
        ) from error
    try:
        os.lstat(absolute)
    except FileNotFoundError:
        pass
    except OSError as error:
        # Whoever uses the path reports anything else that is wrong with it.
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"{key}={text}: {reason(error)}; choose a shorter path"
            ) from error
    return absolute


def check_folder(folder: Path, *, key: str) -> None:
    """Checks that a folder can be written to, or can be created; creates nothing.

    Args:
      folder: absolute.
      key: as for `local`.

    Raises:
      UserError: it cannot; the message has the reason and the path that is in the way.
    """
    try:
        place = _nearest(folder)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise not_writable(folder, error, key=key) from error


def check_file(path: Path, *, key: str) -> None:
    """Checks that a file can be written, as `check_folder` checks its folder."""
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: name a file")
    check_folder(path.parent, key=key)


def not_writable(path: Path, error: BaseException, *, key: str) -> UserError:
    """Returns the error for a place that turns out unusable before any work is done."""
    also = "free some space, or " if is_full(error) else ""
    return UserError(
        f"{path} cannot be written ({reason(error)}): {also}name another place by {key}"
    )


def _nearest(folder: Path) -> Path:
    """Returns the folder, or the lowest folder above it that exists.

    Raises:
      OSError: something other than a folder is in the way.
    """
    for place in (folder, *folder.parents):
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            if place.is_symlink():
                raise OSError(
                    errno.ENOENT, f"{place} is a link to something that does not exist"
                ) from None
        except NotADirectoryError:
            pass
        else:
            if not stat.S_ISDIR(mode):
                raise OSError(errno.ENOTDIR, f"{place} is a file")
            return place
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


@contextlib.contextmanager
def plain(path: Path) -> Iterator[Path]:
    """Yields a name of a path that Orbax, TensorStore and etils do not misread.

    It is the path itself unless they would read something in it as a pattern or an
    address, or it is not UTF-8. Then the name leads through the open parent folder, and
    is valid until the end of the block.

    Raises:
      OSError: the parent folder cannot be opened, or the system is not Linux.
    """
    if not _is_misread(path):
        yield path
        return
    if not OPEN_FOLDERS.is_dir():
        raise OSError(
            errno.EINVAL, f"on this system a path cannot have {_NOT_HERE}: {path}"
        )
    opened = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield OPEN_FOLDERS / str(opened) / path.name
    finally:
        os.close(opened)


_NOT_HERE = "any of * ? [ ] \\, nor bytes that are not UTF-8"


def _is_misread(path: Path) -> bool:
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        return True
    return bool(
        IN_PATTERNS.intersection(path.as_posix())
        or TOP_FOLDERS_OF_ETILS.intersection(path.parts[1:2])
        # TensorStore appends a slash, so `name:` followed by two makes an address.
        or any(part.endswith(":") for part in path.parts)
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError while a run writes `path` into a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written ({reason(error)}): {remedy(error)}"
        ) from error


def remedy(error: BaseException) -> str:
    """Says what to do about a run that could not write."""
    again = "run the same command to continue from what has been saved"
    if is_full(error):
        return f"the disk is full; free some space and {again}"
    if reason(error) == os.strerror(errno.ENOENT):
        gone = "it was removed or moved while the run wrote to it"
        return f"{gone}; put it back, and {again}"
    return f"{again} once that is fixed"


def reason(error: BaseException) -> str:
    """Returns the system's words for what went wrong, or the error's first line.

    TensorStore hides these words in the long text of another type of error.
    """
    words = {os.strerror(number) for number in errno.errorcode}
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        for word in sorted(word for word in words if word in str(cause)):
            return word
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return textwrap.shorten(lines[0], 200, placeholder=" ...")


def is_full(error: BaseException) -> bool:
    """Returns whether the reason is that the disk, or a user's share of it, is full."""
    return reason(error) in map(os.strerror, FULL)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error, its cause, the cause of that, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
