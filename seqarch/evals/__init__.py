"""Evaluators, which measure what a trained run can do and what it costs."""
