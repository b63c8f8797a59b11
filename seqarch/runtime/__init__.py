"""The parts that programs share: flags, errors, progress, workers, clusters, signals."""
