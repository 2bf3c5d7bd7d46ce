"""The code of cas-sysroot.bbclass that runs in BitBake's tasks; `d` is a recipe's data store."""
