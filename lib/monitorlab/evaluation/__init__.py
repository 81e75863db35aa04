"""Evaluation of monitors: rates with intervals, comparisons, operating points, cost."""
