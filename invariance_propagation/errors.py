"""The exceptions that are for people, and text that can always be shown to them."""

from typing import Any


def printable(text: str) -> str:
    """Escapes what a terminal or a page cannot show, so that one line stays one line.

    Bytes of a file name that are not UTF-8 become \\xff, line breaks \\n. Text without
    such characters, or escaped before, is returned as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    # Python keeps a byte that it could not decode as U+DC00 + byte.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class UserError(ValueError):
    """Bad input: the message is one line that names the value and the fix.

    `main.py` prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class TrainingError(RuntimeError):
    """A run that cannot go on: one line that names what happened and what to do.

    `main.py` prints it without a traceback and exits with status 1.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class Stopped(Exception):
    """A run that was asked to stop before its end, and has saved its state.

    `main.py` prints the message and exits with `status`: 0 if the config asked, 128 +
    the signal's number if a signal did.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def to_words(error: BaseException, who: str) -> dict[str, Any]:
    """Puts an error into JSON, for `from_words` in another process.

    An error of another kind than those above becomes a TrainingError that names this
    process, `who`, and the kind.
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
    """Returns the error that `to_words` was called with, or what stands for it."""
    if words["kind"] == "Stopped":
        return Stopped(words["text"], words["status"])
    kinds = {"UserError": UserError, "TrainingError": TrainingError}
    return kinds[words["kind"]](words["text"])
