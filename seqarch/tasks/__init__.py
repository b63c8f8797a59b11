"""What a model is trained on and scored by."""
