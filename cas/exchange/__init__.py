"""Exchange with other formats: sstate objects, directories and archives.

Uses `cas.store` and lower rooms.
"""
