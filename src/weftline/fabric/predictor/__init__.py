"""Times of collectives on real machines: what a library does on a network, fitted and scored."""
