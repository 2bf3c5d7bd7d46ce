"""Data without a store: IDs, manifests, artifacts, unions of trees, conflicts, strict JSON.

Uses only the standard library, `cas.errors` and `cas.system`.
"""
