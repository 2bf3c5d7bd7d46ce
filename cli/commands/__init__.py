"""One module for each command, or for a few that belong together.

Uses `cli.options`, `cli.output`, and all of `cas` and `mounter`.
"""
