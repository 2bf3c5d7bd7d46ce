"""Printing: data, tables, progress, errors, and the summary of an interrupted command.

Uses no other room of `cli`.
"""
