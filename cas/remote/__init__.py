"""Sharing artifacts through an object store: S3 and compatible ones, GCS, Azure, HTTP, a directory.

docs/format.md specifies the stored data, none of which is trusted: contents and trees are checked
against their digests, and records against the trusted keys, if there are any. Uses `cas.store` and
lower rooms, obstore (`object_store.py` only) and cryptography (`signing.py` only).
"""
