"""Notebook 05: arms of a fine-tuning experiment."""
