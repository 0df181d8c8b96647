"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """Bad input: the message is one line that names the value and the fix.

    `main.py` prints it without a traceback and exits with status 2.
    """


class TrainingError(RuntimeError):
    """A run that cannot go on: one line that names what happened and what to do.

    `main.py` prints it without a traceback and exits with status 1.
    """


class Stopped(Exception):
    """A run that was asked to stop before its end, and has saved its state.

    `main.py` prints the message and exits with `status`: 0 if the config asked, 128 +
    the signal's number if a signal did.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
