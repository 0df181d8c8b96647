"""Trains and evaluates: python main.py --config=configs/digits.py --workdir=runs/digits.

The command `invariance-propagation` of the installed package is the same code, with the
same flags. --help lists them.
"""

import signal

# Until the program can say what it does: Ctrl-C ends it, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from invariance_propagation.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
