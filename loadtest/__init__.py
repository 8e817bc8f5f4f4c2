"""Load, faults and proof: programs that speak HTTP to a deployment and judge what it answered.

Nothing here shares runtime code with what it measures: no import of ``actors``, ``router`` or ``deploy``.
"""
