"""Claims about the trade between quality and memory, and the measurements that test them.

Each claim has two functions: one takes a `Setup`, measures and yields records; the other takes
these records and returns a `Finding`. The verdict, its words and its table follow from the records
alone. docs/claims/report.md shows all of them.
"""
