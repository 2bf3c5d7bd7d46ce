"""Users by their names, for people."""

from __future__ import annotations

import pwd


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one who has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
