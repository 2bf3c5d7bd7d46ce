"""Sysroots as trees of hard links or copies: made, placed and removed.

Uses `mounter.plan`, `mounter.targets` and `mounter.records`.
"""
