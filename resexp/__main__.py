"""``python -m resexp`` is the same as ``resexp``."""

import signal

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C needs no traceback while the command is loaded

    from resexp.cli import main

    main()
