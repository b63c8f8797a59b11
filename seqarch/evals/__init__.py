"""What a trained run can do and what it costs."""
