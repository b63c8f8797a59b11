"""seqarch: choose between sequence architectures by measuring quality and memory."""
