"""The HTML page of `cas report`: functions from data to text.

Uses `cli.output` and `cas`.
"""
