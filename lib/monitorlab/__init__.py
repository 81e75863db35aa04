"""Reliable monitoring of LLMs."""

__version__ = "0.1.0"
