"""Messages of interrupted commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from cas.errors import CasError
from cas.system.signals import signals_blocked
from cli.output.errors import marked
from cli.output.printing import note


class Ended(SystemExit):
    """A signal other than SIGINT ends the command; `code` is that of the process."""


GOES_ON = "run the same command again to resume"


@contextlib.contextmanager
def summary_on_interrupt(tell: Callable[[], str], *, of_errors: bool = False) -> Iterator[None]:
    """If the block is interrupted, add the summary that `tell` returns to the message.

    `tell` is called at the end of the block, and may query the store: the signal may have come
    right after the last step. With `of_errors`, errors print the summary, too.
    """
    try:
        yield
    except (KeyboardInterrupt, Ended) as end:
        with signals_blocked():
            end.add_note(_told(tell))
        raise
    except Exception:
        if of_errors:
            note(_told(tell))
        raise


def _told(tell: Callable[[], str]) -> str:
    try:
        return tell()
    except (CasError, OSError) as error:
        return f"what was done is not known: {error}"


def say_interrupted(end: BaseException) -> None:
    """Print that the command was interrupted, with its summary."""
    notes: list[str] = []
    one: BaseException | None = end
    while one is not None and not notes:  # another signal may have come on top of the first
        notes = getattr(one, "__notes__", [])
        one = one.__context__
    print(marked(": ".join(["cas", "interrupted", *notes[:1]])), file=sys.stderr)
