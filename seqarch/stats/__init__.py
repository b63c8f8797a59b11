"""Intervals and groups: what a difference between scores says."""
