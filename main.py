"""Trains and evaluates: python main.py --config=configs/digits.py --workdir=runs/digits.

The command `invariance-propagation` of the installed package is the same code, with the
same flags. --help lists them.
"""

from invariance_propagation.cli import main

if __name__ == "__main__":
    main()
