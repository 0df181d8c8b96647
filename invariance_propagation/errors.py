"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """Bad input: the message is one line that names the value and the fix.

    `main.py` prints it without a traceback and exits with status 2.
    """


class TrainingError(RuntimeError):
    """A run that cannot go on: one line that names what happened and what to do.

    `main.py` prints it without a traceback and exits with status 1.
    """


class Stopped(TrainingError):
    """A run that was asked to stop, by `signal`, and has saved its state."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal
