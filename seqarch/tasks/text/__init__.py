"""Text as tokens: the file format, the default corpus, the preparation of local files and the
loader.
"""
