"""Claims about the trade between quality and memory, and the measurements that test them.

Each claim is a function that takes a `Setup`, measures, and returns a `Finding`. Its verdict
follows from the numbers. docs/claims.md shows all of them.
"""
