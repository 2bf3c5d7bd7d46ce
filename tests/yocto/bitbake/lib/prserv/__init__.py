"""Stands in for a module of BitBake that its package on PyPI lacks."""
