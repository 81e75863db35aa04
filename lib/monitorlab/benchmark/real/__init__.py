"""Real pairs: published answers to one request, one right and one wrong, one loader per family."""
