"""Text into tokens on disk, and batches out of them by the number of the step alone."""
