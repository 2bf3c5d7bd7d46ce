"""The entry point of the command line."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line and run it; see `cli.main.main`.

    An interrupt during the imports ends the process at once, since nothing has to be cleaned up.
    """
    gc.disable()  # reference counts free all but cycles; looking for those takes 3 ms of 30
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
