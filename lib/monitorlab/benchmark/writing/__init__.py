"""From a scenario to paired samples, and to the training corpus."""
