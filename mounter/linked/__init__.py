"""Sysroots as trees of hard links or copies: making, placing and removing them.

Uses `mounter.plan`, `mounter.targets` and `mounter.records`.
"""
