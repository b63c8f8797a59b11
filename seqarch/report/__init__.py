"""Renders records as tables, figures and pages; a number becomes a string only here."""
