"""Where a command's process begins, before what takes time to import."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line and run it; see `cli.main.main`.

    Interrupted before there is anything to tidy up, it ends at once, as a program in C does.
    """
    gc.disable()  # counts free all but cycles, and to look for those takes 3 ms of an import's 30
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
