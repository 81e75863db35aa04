"""Notebook 03: monitors on the benchmark."""
