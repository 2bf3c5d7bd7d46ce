"""Storing a tree or an archive: source, objects, layer, record.

Uses `cas.index` and lower rooms.
"""
