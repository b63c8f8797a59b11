"""Text as a task: file format, default corpus, preparation of local files, tokenizers, loader."""
