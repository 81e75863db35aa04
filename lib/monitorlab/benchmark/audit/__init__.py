"""What the labels are worth: annotation, probes, balance, duplicates."""
