"""What programs share: flags, errors in one line, progress, workers, clusters, signals."""
