"""Notebook 06: where step scores come from."""
