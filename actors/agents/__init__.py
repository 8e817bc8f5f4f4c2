"""Agents that ship with Rehydra: ``echo`` for tests and load, ``recall`` for the demo."""
