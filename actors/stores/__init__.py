"""Checkpoint stores. ``base`` is the contract; every other module keeps it and passes the same suite."""
