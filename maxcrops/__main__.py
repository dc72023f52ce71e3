"""``python -m maxcrops``."""

from maxcrops.cli import main

main()
