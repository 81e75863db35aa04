"""Notebook 07: calibrated alarms."""
