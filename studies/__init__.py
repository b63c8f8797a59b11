"""Programs that measure and render the pages of docs/; they are not in the package `seqarch`."""
