"""The directory of a store: its layout, and the small files in it that need no index.

Scratch directories, leases, pins, mount records, counters and the log. Uses only the standard
library and lower rooms, so `mounter` runs without installed packages.
"""
