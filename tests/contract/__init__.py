"""The store contract as tests: every sentence of ``actors/stores/base.py``, on every store.

A store of your own: write a ``Lab`` for it (see ``lab.py``), add it to ``LABS`` in ``conftest.py``, run this folder.
"""
