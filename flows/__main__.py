"""``python -m flows``: the command ``slopewatch`` without its script."""

from flows.cli import main

main()
