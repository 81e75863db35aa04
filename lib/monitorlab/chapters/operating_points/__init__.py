"""Notebook 04: thresholds."""
