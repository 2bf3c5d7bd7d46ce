"""Overlay mounts and their upper directories.

Uses `mounter.plan`, `mounter.targets` and `mounter.syscalls`.
"""
