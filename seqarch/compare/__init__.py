"""Members at one budget: what they are, their learning rates and seeds, and which differences
between them are differences.
"""
