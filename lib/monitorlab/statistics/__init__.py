"""Intervals, ranks, thresholds and curves: what counts knows no chapter."""
