"""Disk space of the store, of artifacts and of groups, and the statistics of use.

Uses `cas.compose` and lower rooms.
"""
