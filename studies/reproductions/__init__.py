"""Published results of the field, reproduced: one module for each, run by scripts/reproduce.py."""
