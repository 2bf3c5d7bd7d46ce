"""The `cas` command."""
