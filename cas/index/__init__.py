"""The index from IDs to artifacts: its LMDB database, the links beside it, and the format.

Uses LMDB (`database.py` only) and lower rooms.
"""
