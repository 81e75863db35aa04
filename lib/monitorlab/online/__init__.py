"""Calibrated online monitoring: statistics, thresholds with a guarantee, delays (paper B)."""
