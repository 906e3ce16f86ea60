"""`python -m igb`."""

from igb.cli import main

main()
