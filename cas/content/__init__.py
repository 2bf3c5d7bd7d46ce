"""File contents and layers: hashed, stored once, read, compared and checked.

Uses BLAKE3 (`digest.py` only) and lower rooms.
"""
