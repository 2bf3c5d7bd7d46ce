"""Sharing artifacts through an object store: S3 and what speaks like it, GCS, Azure, HTTP, a
directory.

What lies there is specified in docs/format.md. Nothing of it is believed: contents are checked
against their digests, a tree against its own, and a record, if keys are trusted, against those.
"""
