"""Garbage collection: the policy, the plan, the removal of artifacts and the sweep of leftovers.

Uses `cas.usage` and lower rooms.
"""
