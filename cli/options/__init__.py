"""Options that commands share, and the settings behind them.

Uses `cli.output` and all of `cas` and `mounter`.
"""
