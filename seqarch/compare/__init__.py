"""Comparisons of members at one budget: matching, learning rates, seeds, and their evidence."""
