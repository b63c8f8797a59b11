"""What is said about the trade between quality and memory, and the measurement that tests it:
docs/claims.md.

Each claim is a function of `Means` that measures and returns a `Finding`, whose verdict follows
from the numbers.
"""
