"""The benchmark: scenarios that people write, samples that code composes, and their audit."""
