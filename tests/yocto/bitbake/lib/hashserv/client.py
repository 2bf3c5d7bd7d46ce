"""Stands in for a module of BitBake that its package on PyPI lacks."""


class ClientPool:
    """Is named, and never used."""
