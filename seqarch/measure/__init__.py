"""What a model costs and how well it predicts: quality, memory, speed and FLOPs, each measured."""
