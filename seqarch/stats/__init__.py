"""Statistics: intervals, fit rates, groups of members, and fits of curves."""
