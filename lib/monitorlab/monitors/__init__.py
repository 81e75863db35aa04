"""Monitors: what judges a response, and how its verdicts are obtained, stored and read."""
