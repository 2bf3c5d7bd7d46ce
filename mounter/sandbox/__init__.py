"""The namespaces, processes and file system of `cas run`.

Uses `mounter.overlay` and lower rooms.
"""
