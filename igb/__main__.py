"""`python -m igb`."""

import sys

if not sys.flags.safe_path:  # a file random.py in the current folder is no module of Python's
    sys.path.append(sys.path.pop(0))

from igb.cli import main

main()
