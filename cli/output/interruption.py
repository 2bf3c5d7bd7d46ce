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


RESUMABLE = "run the same command again to resume"


@contextlib.contextmanager
def summary_on_interrupt(summary: Callable[[], str], *, of_errors: bool = False) -> Iterator[None]:
    """If the block is interrupted, add the summary that `summary` returns to the message.

    It is called at the end of the block, and may query the store: the signal may have come right
    after the last step. With `of_errors`, errors print the summary, too.
    """
    try:
        yield
    except (KeyboardInterrupt, Ended) as end:
        with signals_blocked():
            end.add_note(_summary_or_error(summary))
        raise
    except Exception:
        if of_errors:
            note(_summary_or_error(summary))
        raise


def _summary_or_error(summary: Callable[[], str]) -> str:
    try:
        return summary()
    except (CasError, OSError) as error:
        return f"the progress is unknown: {error}"


def say_interrupted(end: BaseException) -> None:
    """Print that the command was interrupted, with its summary."""
    notes: list[str] = []
    cause: BaseException | None = end
    while cause is not None and not notes:  # a second signal may have interrupted the first
        notes = getattr(cause, "__notes__", [])
        cause = cause.__context__
    print(marked(": ".join(["cas", "interrupted", *notes[:1]])), file=sys.stderr)
