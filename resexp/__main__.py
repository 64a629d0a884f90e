"""``python -m resexp`` is the same as ``resexp``."""

from resexp.cli import main

if __name__ == "__main__":
    main()
