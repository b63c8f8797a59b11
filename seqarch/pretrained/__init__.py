"""Weights of Hugging Face models, as runs of this codebase.

`seqarch.costs.hf` reads what a config.json says of sizes; here it becomes a config of ours, and the
weights beside it become a checkpoint. What has no counterpart is refused by name.
"""
