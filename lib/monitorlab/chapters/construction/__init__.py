"""Notebooks 01 and 02: the benchmark, looked at."""
