"""A seeded simulation of several hosts, their store and their clients. See ``README.md`` in this folder."""
