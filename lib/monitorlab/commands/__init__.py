"""What one command of `python -m monitorlab` does."""
