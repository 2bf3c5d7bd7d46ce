"""Checking a store, repairing it, rebuilding the index, and writing everything to the disk.

Uses `cas.gc` and lower rooms.
"""
