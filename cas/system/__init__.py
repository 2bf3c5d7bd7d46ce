"""Linux and Python made convenient: directories, files, workers, signals, text.

Uses only the standard library and `cas.errors`.
"""
