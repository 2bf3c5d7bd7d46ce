"""Stands in for a module of BitBake that its package on PyPI lacks."""


def is_valid_unihash(text: str) -> bool:
    """Tell whether a text has the form of a hash."""
    return len(text) == 64
