"""``python -m resexp`` is the same as ``resexp``."""

from resexp.cli import main

main()
