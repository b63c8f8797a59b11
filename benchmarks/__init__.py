"""Speed of ops, mixers and peers; not a part of the package."""
