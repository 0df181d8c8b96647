"""Exceptions whose messages are for users, and how text and numbers are shown to them."""

import codecs
from collections.abc import Collection
from typing import Any

# Names how text is escaped that an encoding lacks: `str.encode(errors=ENCODABLE)`.
ENCODABLE = "invariance_propagation.encodable"


def printable(text: str) -> str:
    """Escapes characters that a terminal or a page cannot show, such as line breaks.

    Bytes of a file name that are not UTF-8 become \\xff, line breaks \\n. Printable text
    is returned unchanged, so escaping twice does no harm.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _encodable(error: UnicodeError) -> tuple[str, int]:
    """Escapes what an encoding lacks; for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = printable(error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(ENCODABLE, _encodable)


def percent(share: float | None) -> str:
    """Writes a share such as 0.1234 as '12.34 %'; None as 'n/a'."""
    return "n/a" if share is None else f"{100 * share:.2f} %"


def plural(count: int, name: str) -> str:
    """Writes a count before its noun: '1 picture', '1,200 pictures'."""
    return f"{count:,} {name}" + "s" * (count != 1)


def in_bytes(size: float) -> str:
    """Writes a number of bytes in decimal units, such as '1.5 MB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} B"


def _escaped(character: str) -> str:
    code = ord(character)
    # Python keeps a byte that it could not decode as U+DC00 + byte.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class UserError(ValueError):
    """Reports bad input in one line that names the value and the fix.

    `main.py` prints the message without a traceback and exits with status 2.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises UserError unless the option `name` has one of its allowed values."""
    if value not in choices:
        raise UserError(f"{name}={value!r}: choose one of {', '.join(choices)}")


class TrainingError(RuntimeError):
    """Reports that a run cannot continue, in one line that says what happened and what to do.

    `main.py` prints the message without a traceback and exits with status 1.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class Stopped(Exception):
    """Ends a run that was asked to stop early and has saved its state.

    `main.py` prints the message and exits with `status`: 0 if the config asked for the
    stop, 128 + the signal's number if a signal did.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def to_words(error: BaseException, who: str) -> dict[str, Any]:
    """Turns an error into JSON, which `from_words` reads in another process.

    Any other exception becomes a TrainingError that names the process, `who`, and the
    exception's class.
    """
    if isinstance(error, Stopped):
        return {"kind": "Stopped", "text": str(error), "status": error.status}
    if isinstance(error, UserError):
        return {"kind": "UserError", "text": str(error)}
    if isinstance(error, TrainingError):
        return {"kind": "TrainingError", "text": str(error)}
    lines = str(error).strip().splitlines()
    text = ": ".join([who, type(error).__name__, *lines[:1]])
    return {"kind": "TrainingError", "text": text}


def from_words(words: dict[str, Any]) -> Exception:
    """Rebuilds the error that `to_words` wrote down."""
    if words["kind"] == "Stopped":
        return Stopped(words["text"], words["status"])
    kinds = {"UserError": UserError, "TrainingError": TrainingError}
    return kinds[words["kind"]](words["text"])
