from __future__ import annotations


class Stack:
    pass
