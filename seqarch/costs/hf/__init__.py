"""What a Hugging Face model needs, derived from its config.json alone.

Nothing is compiled here, and no weights are read: parameters and states follow from the config by
formulas, one function a family of models, each checked against the library transformers.
"""
