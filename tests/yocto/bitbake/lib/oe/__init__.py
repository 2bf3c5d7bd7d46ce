"""Stands in for OpenEmbedded's library."""
