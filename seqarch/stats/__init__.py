"""Statistics: intervals of differences, groups of members, and fits of curves."""
