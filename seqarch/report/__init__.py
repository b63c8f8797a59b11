"""Records rendered as tables, figures and pages; the only place where a number becomes a string."""
