"""Sweeps: runs of one config with other values of some of its fields."""
