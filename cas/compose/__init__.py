"""Combining artifacts into one tree: order, conflicts, leases, merged layers, origin of a file.

Uses `cas.index` and lower rooms.
"""
