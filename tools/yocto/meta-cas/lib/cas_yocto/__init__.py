"""What cas-sysroot.bbclass does inside BitBake's tasks. `d` is the data store of a recipe."""
