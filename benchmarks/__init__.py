"""Benchmarks of the speed of ops, mixers and peers; the package `seqarch` does not contain them."""
