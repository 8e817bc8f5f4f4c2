"""Experiments on a deployment without Ray: its own Redis, hosts as plain processes, and the edge before them.

``deployment`` starts and ends one, through commands alone; ``store`` reads what the store says of leases and slots;
``patched`` makes a copy of the product with one guard taken out, for positive controls.
"""
