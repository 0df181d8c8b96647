"""The command line: `main` is both `python main.py` and `invariance-propagation`.

Importing this module takes milliseconds, so that a signal is obeyed and --help answers
before JAX is imported.
"""

import os
import signal
import sys
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HELP = {"--help", "-help", "-h", "--h", "-?", "--?", "--helpshort", "--helpfull"}


def main() -> None:
    """Does what the command line asks for, and ends the process with its status."""
    _handle_signals(_end)
    if HELP.intersection(sys.argv[1:]):
        from invariance_propagation.cli.usage import print_usage

        _print(print_usage)
    else:
        from invariance_propagation.cli.command import run

        run()


def _print(text: Callable[[], None]) -> None:
    """Calls a function that prints; whoever reads may stop, as `| head` does."""
    try:
        text()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _handle_signals(handler: Callable | signal.Handlers) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    """Obeys a signal until `signals.watch` does: nothing has been begun by then."""
    del frame
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    os.write(2, f"error: interrupted{by}; nothing was left half written\n".encode())
    os._exit(128 + number)


def _is_worker() -> bool:
    """Returns whether `multiprocessing` has started this process.

    Libraries may put '__mp_main__' among the modules of any process, so that alone tells
    nothing; and importing `multiprocessing` to ask would take time.
    """
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


# A worker process imports the file of the main process, and with it this module. It ends
# with the main process, so signals are not for it.
if _is_worker():
    _handle_signals(signal.SIG_IGN)
