"""The files that a command opens in its sysroots.

Uses `mounter.plan`, `mounter.targets` and `mounter.syscalls`.
"""
