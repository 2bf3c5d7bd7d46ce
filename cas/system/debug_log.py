"""Debug messages: locks waited for, state changes, requests."""

from __future__ import annotations

import sys


def debug(message: str, *arguments: object) -> None:
    """Log a message at debug level to the logger `cas` of the standard library's logging.

    `arguments` are formatted into the message (`%s`) only if it is shown. If nothing has imported
    logging, nothing can have asked for messages: importing it here would slow down every command.
    """
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger("cas").debug(message, *arguments)
