"""The store contract as tests: every sentence of ``actors/stores/base.py``, on every store.

``REDIS_URL`` and ``TEST_MONGODB_URI`` name servers that get the suite too; ``TEST_MOTO=1`` gives it to moto's DynamoDB
as well, which takes minutes.

A store of your own: write a ``Lab`` for it (see ``lab.py``), add it to ``LABS`` in ``conftest.py``, run this folder.
"""
